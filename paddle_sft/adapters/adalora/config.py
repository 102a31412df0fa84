"""What a user decides about AdaLoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.core.errors import ArgumentError


@dataclass(frozen=True)
class AdaLoRAConfig(AdapterConfig):
    """AdaLoRA's numbers (https://arxiv.org/abs/2303.10512, section 3)."""

    adalora_init_r: int = 12
    """Rank of every update at the start."""
    adalora_target_r: int = 8
    """Rank of an update at the end, on average over the layers."""
    adalora_alpha: float = 32.0
    """The update is multiplied by alpha / init_r."""
    adalora_tinit: Optional[int] = None
    """Steps before anything is cut; None: a tenth of the steps."""
    adalora_tfinal: Optional[int] = None
    """Steps after the last cut; None: three tenths of the steps."""
    adalora_delta_t: int = 10
    """Steps from one cut to the next."""
    adalora_beta1: float = 0.85
    """How slowly the average of the sensitivity forgets."""
    adalora_beta2: float = 0.85
    """How slowly the average of its uncertainty forgets."""
    adalora_orth_weight: float = 0.5
    """Weight of the penalty that keeps P and Q orthogonal."""
    lora_dropout: float = 0.0
    """Share of the update's inputs that are zeroed while training."""

    def __post_init__(self) -> None:
        if not 1 <= self.adalora_target_r <= self.adalora_init_r:
            raise ArgumentError(
                f"adalora_target_r must be at least 1 and at most adalora_init_r {self.adalora_init_r}, got "
                f"{self.adalora_target_r}"
            )

    @property
    def scaling(self) -> float:
        return self.adalora_alpha / self.adalora_init_r

    def phases(self, num_steps: int) -> Tuple[int, int]:
        """(steps before the first cut, step of the last cut).

        Raises:
            ArgumentError: they leave no step to cut in.
        """
        first = num_steps // 10 if self.adalora_tinit is None else self.adalora_tinit
        last = num_steps - (3 * num_steps // 10 if self.adalora_tfinal is None else self.adalora_tfinal)
        if first >= last:
            raise ArgumentError(
                f"adalora_tinit {first} and adalora_tfinal {num_steps - last} leave none of {num_steps} steps to cut "
                "ranks in; lower one of them, or leave both out"
            )
        return first, last

    def budget(self, step: int, num_steps: int) -> float:
        """Average rank of an update after so many steps: falls with the cube of what is left (equation 11)."""
        first, last = self.phases(num_steps)
        left = 1.0 - min(max(step - first, 0) / (last - first), 1.0)
        return self.adalora_target_r + (self.adalora_init_r - self.adalora_target_r) * left**3
