"""What a user decides about LoRA."""

from __future__ import annotations

from dataclasses import dataclass

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.core.errors import ArgumentError


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """LoRA's numbers (Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1)."""

    lora_rank: int = 8
    """Inner size r of the update. Memory and trainable weights grow linearly with it."""
    lora_alpha: float = 16.0
    """The update is multiplied by alpha / rank, so alpha keeps its meaning when rank changes."""
    lora_dropout: float = 0.0
    """Share of the update's inputs that are zeroed while training."""

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise ArgumentError(
                f"lora_rank must be at least 1, got {self.lora_rank}; to train every weight, leave lora out"
            )
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ArgumentError(f"lora_dropout must be at least 0 and below 1, got {self.lora_dropout}")

    @property
    def scaling(self) -> float:
        """The only place alpha meets rank: layer, merge and export all read it here."""
        return self.lora_alpha / self.lora_rank
