"""What a user decides about LoHa."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.core.errors import ArgumentError


@dataclass(frozen=True)
class LoHaConfig(AdapterConfig):
    """LoHa's numbers (https://arxiv.org/abs/2108.06098, proposition 1; LyCORIS, https://arxiv.org/abs/2309.14859)."""

    loha_rank: int = 8
    """Inner size r of both products; the update's rank goes up to r * r."""
    loha_alpha: float = 16.0
    """The update is multiplied by alpha / rank."""

    def __post_init__(self) -> None:
        if self.loha_rank < 1:
            raise ArgumentError(
                f"loha_rank must be at least 1, got {self.loha_rank}; to train every weight, leave it out"
            )

    @property
    def scaling(self) -> float:
        return self.loha_alpha / self.loha_rank
