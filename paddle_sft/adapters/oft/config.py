"""What a user decides about OFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.core.errors import ArgumentError


@dataclass(frozen=True)
class OFTConfig(AdapterConfig):
    """OFT's numbers (https://arxiv.org/abs/2306.07280, section 3; the series: https://arxiv.org/abs/2506.19847)."""

    oft_block_size: int = 32
    """Side of the blocks of the orthogonal matrix: inputs are turned in groups of so many."""
    oft_neumann_terms: int = 5
    """Terms of the series that stands for the inverse in Cayley's transform; 0: the inverse itself."""

    def __post_init__(self) -> None:
        if self.oft_block_size < 2:
            raise ArgumentError(f"oft_block_size must be at least 2, got {self.oft_block_size}; one number can't turn")
        if self.oft_neumann_terms != 0 and self.oft_neumann_terms < 4:
            raise ArgumentError(
                f"oft_neumann_terms must be at least 4, or 0 for the exact inverse, got {self.oft_neumann_terms}"
            )

    def block_size(self, in_features: int) -> int:
        """The divisor of a layer's input size that is nearest to `oft_block_size`; of two, the smaller (as in PEFT)."""
        divisors = [number for number in range(2, in_features + 1) if in_features % number == 0]
        return min(divisors, key=lambda number: (abs(number - self.oft_block_size), number))

    def remarks(self, shapes: Dict[str, Tuple[int, int]]) -> Dict[str, Tuple[str, str]]:
        other = {rows: self.block_size(rows) for rows, _ in shapes.values()}
        other = {rows: size for rows, size in other.items() if size != self.oft_block_size}
        if not other:
            return {}
        shown = ", ".join(f"{size} for inputs of {rows}" for rows, size in other.items())
        return {"block size": (shown, f"{self.oft_block_size} doesn't divide them: the nearest divisor")}
