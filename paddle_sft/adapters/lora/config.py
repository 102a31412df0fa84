"""What a user decides about LoRA and its relatives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Dict, Mapping, Optional, Tuple

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.adapters.targets import names_path
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
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732, theorem 3.2)."""
    lora_plus_scale: float = 1.0
    """Learning rate of B over that of A (LoRA+: Hayou et al. 2024, https://arxiv.org/abs/2402.12354, section 4)."""
    rank_pattern: Dict[str, int] = field(default_factory=dict)
    """Layer -> its own rank. A layer is named as in lora_target_modules; the last entry that names it holds."""
    alpha_pattern: Dict[str, float] = field(default_factory=dict)
    """Layer -> its own alpha."""
    loftq: bool = False
    """Start from what quantising the base has lost (LoftQ), not from zero."""

    has_own_start: ClassVar[bool] = False
    """Whether the method's own start, or what it freezes, leaves no room for loftq."""

    def __post_init__(self) -> None:
        for rank in (self.lora_rank, *self.rank_pattern.values()):
            if isinstance(rank, bool) or int(rank) != rank or rank < 1:
                raise ArgumentError(f"lora_rank must be at least 1, got {rank}; to train every weight, leave lora out")
        for alpha in (self.lora_alpha, *self.alpha_pattern.values()):
            if not alpha > 0:
                raise ArgumentError(f"lora_alpha must be above 0, got {alpha}")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ArgumentError(f"lora_dropout must be at least 0 and below 1, got {self.lora_dropout}")
        if self.loftq and self.has_own_start:
            raise ArgumentError("loftq is a start of plain LoRA, and this method has a start of its own; leave one out")
        self._require_used("rank_pattern", self.rank_pattern)
        self._require_used("alpha_pattern", self.alpha_pattern)

    def _require_used(self, key: str, pattern: Mapping[str, Any]) -> None:
        """Once the layers are known, every entry names one of them."""
        unused = [name for name in pattern if not any(names_path(name, path) for path in self.target_modules)]
        if self.target_modules and unused:
            raise ArgumentError(
                f"{key} names {', '.join(map(repr, unused))}, and no adapted layer has such a name (one is "
                f"{self.target_modules[0]}); correct it or leave it out"
            )

    def remarks(self, shapes: Dict[str, Tuple[int, int]]) -> Dict[str, Tuple[str, str]]:
        wide = [path for path, shape in shapes.items() if self.for_path(path).lora_rank > min(shape)]
        if not wide:
            return {}
        rows, columns = shapes[wide[0]]
        said = f"{len(wide)} layers have a rank above their smaller side ({wide[0]} is {rows} x {columns})"
        return {"rank": (said, "what is above it adds weights and no freedom")}

    @property
    def scaling(self) -> float:
        """The only place alpha meets rank: layer, merge and export all read it here."""
        return self.lora_alpha / (math.sqrt(self.lora_rank) if self.rslora else self.lora_rank)

    def for_path(self, path: str) -> LoRAConfig:
        """With the rank and alpha of one layer."""
        return replace(
            self,
            lora_rank=_last_of(self.rank_pattern, path, self.lora_rank),
            lora_alpha=_last_of(self.alpha_pattern, path, self.lora_alpha),
            rank_pattern={},
            alpha_pattern={},
        )


@dataclass(frozen=True)
class StartedConfig(LoRAConfig):
    """Of DoRA, OLoRA and MosLoRA: LoRA's numbers, without another start."""

    has_own_start: ClassVar[bool] = True


@dataclass(frozen=True)
class PiSSAConfig(LoRAConfig):
    """PiSSA's numbers (Meng et al. 2024, https://arxiv.org/abs/2404.02948)."""

    has_own_start: ClassVar[bool] = True

    pissa_niter: Optional[int] = None
    """Subspace iterations of the fast, randomised decomposition; None for the exact one."""


def _last_of(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    return next((value for name, value in reversed(list(pattern.items())) if names_path(name, path)), default)
