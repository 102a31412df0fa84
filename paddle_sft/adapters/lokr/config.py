"""What a user decides about LoKr."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Dict, NamedTuple, Tuple

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.core.errors import ArgumentError


class Parts(NamedTuple):
    """The sizes of one layer's factors: in = small_in * large_in, out = small_out * large_out."""

    small_in: int
    large_in: int
    small_out: int
    large_out: int
    is_small_whole: bool
    """Whether the small factor is one matrix; else a product of two of inner size rank."""
    is_large_whole: bool


@dataclass(frozen=True)
class LoKrConfig(AdapterConfig):
    """LoKr's numbers (https://arxiv.org/abs/2309.14859, section 3.2)."""

    lokr_rank: int = 8
    """Inner size of the factors that are products; a factor too small to gain from it is kept whole."""
    lokr_alpha: float = 16.0
    """The update is multiplied by alpha / rank."""
    lokr_factor: int = -1
    """Size of the small factor's sides, or the largest divisor of a side below it; -1: near the root."""
    lokr_decompose_both: bool = False
    """Whether the small factor, too, is a product where that has fewer numbers."""

    def __post_init__(self) -> None:
        if self.lokr_rank < 1:
            raise ArgumentError(
                f"lokr_rank must be at least 1, got {self.lokr_rank}; to train every weight, leave it out"
            )
        if self.lokr_factor != -1 and self.lokr_factor < 1:
            raise ArgumentError(f"lokr_factor must be at least 1, or -1 for the root, got {self.lokr_factor}")

    @property
    def scaling(self) -> float:
        return self.lokr_alpha / self.lokr_rank

    def parts(self, in_features: int, out_features: int) -> Parts:
        """How a layer's sides are cut: the rule of LyCORIS and PEFT."""
        small_in, large_in = factors(in_features, self.lokr_factor)
        small_out, large_out = factors(out_features, self.lokr_factor)
        is_small_whole = not self.lokr_decompose_both or 2 * self.lokr_rank >= max(small_in, small_out)
        is_large_whole = 2 * self.lokr_rank >= max(large_in, large_out)
        return Parts(small_in, large_in, small_out, large_out, is_small_whole, is_large_whole)

    def remarks(self, shapes: Dict[str, Tuple[int, int]]) -> Dict[str, Tuple[str, str]]:
        cuts = {shape: self.parts(*shape) for shape in shapes.values()}
        shown = [
            f"{rows} x {columns} = ({cut[0]} x {cut[2]}) o ({cut[1]} x {cut[3]})"
            for (rows, columns), cut in cuts.items()
        ]
        return {"factors": ("; ".join(shown), "")}


def factors(size: int, factor: int) -> Tuple[int, int]:
    """(m, n) with m * n = size: m is `factor` where it divides the size, or else the largest divisor that is neither
    above it (where it isn't -1) nor above the root."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = isqrt(size) if factor < 0 else min(factor, isqrt(size))
    small = next(number for number in range(limit, 0, -1) if size % number == 0)
    return small, size // small
