"""What a user decides about VeRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Tuple

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.adapters.targets import Targets
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import features


@dataclass(frozen=True)
class VeRAConfig(AdapterConfig):
    """VeRA's numbers (https://arxiv.org/abs/2310.11454, section 3)."""

    vera_rank: int = 8
    """Inner size r. The random matrices grow with it; of what is trained only r numbers a layer do."""
    vera_d_initial: float = 0.1
    """First value of the vector d."""
    lora_dropout: float = 0.0
    """Share of the update's inputs that are zeroed while training."""
    largest_in: int = 0
    """Rows of the shared A: the largest input among the adapted layers. Found at attach."""
    largest_out: int = 0
    """Columns of the shared B: the largest output among the adapted layers. Found at attach."""

    def __post_init__(self) -> None:
        if self.vera_rank < 1:
            raise ArgumentError(
                f"vera_rank must be at least 1, got {self.vera_rank}; to train every weight, leave it out"
            )
        if self.vera_d_initial == 0:
            raise ArgumentError(
                "vera_d_initial must not be 0: b starts at zero, and then neither of the two would move"
            )

    def on(self, linears: Dict[str, Any], targets: Targets) -> VeRAConfig:
        config = super().on(linears, targets)
        sizes = [features(linears[path]) for path in config.target_modules]
        return replace(config, largest_in=max(n for n, _ in sizes), largest_out=max(n for _, n in sizes))

    def remarks(self, shapes: Dict[str, Tuple[int, int]]) -> Dict[str, Tuple[str, str]]:
        size = self.vera_rank * (self.largest_in + self.largest_out)
        why = "frozen, one pair for all layers, each takes what it needs of the rows and columns"
        return {"random matrices": (f"{size:,} numbers", why)}
