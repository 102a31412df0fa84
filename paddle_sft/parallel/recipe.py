"""What of a run decides its memory, beside the model and the layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, FrozenSet, Mapping


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    rows: int
    """Of a micro-batch on one rank."""
    length: int
    """Tokens of a row, all of them trained: the most there can be."""
    accumulation: int
    """Micro-batches of a step."""
    weight_bytes: int = 4
    """Of a number of a parameter, and of its gradient."""
    compute_bytes: int = 4
    """Of a number between two layers' matrices."""
    optimizer: str = "adamw"
    lora_rank: int = 0
    """0: all weights are trained."""
    targets: FrozenSet[str] = frozenset()
    """Paths of the linear layers with LoRA."""
    schemes: Mapping[str, Any] = field(default_factory=dict)
    """Path -> quant.scheme.Scheme of a linear layer that is stored in 4 or 8 bits."""
    recompute: str = ""
    """full, full_attn or core_attn; empty: nothing is computed twice."""
    offloads: bool = False
    """Whether the optimizer's state is in the memory of the host."""
    on_gpu: bool = True
    """Which operators compute: Paddle's on a GPU, or those that the suite compiles for a CPU."""

    @property
    def is_full(self) -> bool:
        return self.lora_rank == 0

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def state_bytes(self) -> int:
        """Of AdamW for one number: two moments in float32, and a float32 copy of a weight in half precision."""
        return 8 + (4 if self.weight_bytes == 2 else 0)
