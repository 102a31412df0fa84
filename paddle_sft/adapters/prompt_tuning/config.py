"""What a user decides about prompt tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from paddle_sft.adapters.virtual import VirtualConfig


@dataclass(frozen=True)
class PromptTuningConfig(VirtualConfig):
    """Prompt tuning (Lester et al. 2021, https://arxiv.org/abs/2104.08691, section 2)."""

    prompt_tuning_init: str = "vocabulary"
    """Where the vectors start: at those of tokens drawn from the vocabulary, at those of a text, or at random."""
    prompt_tuning_init_text: Optional[str] = None
    init_ids: Tuple[int, ...] = ()
    """The text's tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_ids", tuple(self.init_ids))
