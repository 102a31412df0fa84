"""What a user decides about P-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.adapters.virtual import VirtualConfig, encoder_size
from paddle_sft.core.errors import ArgumentError

NONE = "none"
"""Of an adapter whose encoder has done its work."""


@dataclass(frozen=True)
class PTuningConfig(VirtualConfig):
    """P-tuning (Liu et al. 2021, https://arxiv.org/abs/2103.10385, section 3.3)."""

    encoder_reparameterization_type: str = "MLP"
    """The encoder: MLP, LSTM, or none (then it is prompt tuning)."""
    encoder_hidden_size: Optional[int] = None
    """The encoder's inner width; None: that of a word vector."""
    encoder_num_layers: int = 2
    """Of the LSTM."""
    encoder_dropout: float = 0.0
    """Between the layers of the LSTM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        encoder_size(self.encoder_hidden_size, 1)
        if self.encoder_num_layers < 1 or not 0.0 <= self.encoder_dropout < 1.0:
            raise ArgumentError(
                f"encoder_num_layers must be at least 1 (got {self.encoder_num_layers}), encoder_dropout at least 0 "
                f"and below 1 (got {self.encoder_dropout})"
            )
