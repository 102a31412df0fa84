"""What a user decides about prefix tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.adapters.virtual import VirtualConfig, encoder_size


@dataclass(frozen=True)
class PrefixTuningConfig(VirtualConfig):
    """Prefix tuning (Li and Liang 2021, https://arxiv.org/abs/2101.00190, sections 4.2 and 4.3)."""

    num_virtual_tokens: int = 128
    prefix_projection: bool = True
    """Train a small table and an MLP that makes keys and values of it, in place of keys and values themselves."""
    encoder_hidden_size: Optional[int] = None
    """The MLP's inner width; None: key and value heads times their size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        encoder_size(self.encoder_hidden_size, 1)
