"""Which part of an array a rank has. Needs no paddle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

Range = Tuple[int, int]


@dataclass(frozen=True)
class PartOf:
    """A part of a whole array: on one axis some ranges, one behind the other; on the other axes everything."""

    shape: Tuple[int, ...]
    """Of the whole."""
    axis: int
    ranges: Tuple[Range, ...]

    def take(self, whole: np.ndarray) -> np.ndarray:
        """The part of a whole array, a copy."""
        return np.concatenate([whole[self._at(first, last)] for first, last in self.ranges], axis=self.axis)

    def put(self, part: np.ndarray, whole: np.ndarray) -> None:
        """Write a part where it belongs."""
        start = 0
        for first, last in self.ranges:
            whole[self._at(first, last)] = part[self._at(start, start + last - first)]
            start += last - first

    def find(self, at: Sequence[int]) -> Optional[Tuple[int, ...]]:
        """Where a place of the whole stands in the part; None where it doesn't."""
        start = 0
        for first, last in self.ranges:
            if first <= at[self.axis] < last:
                return (*at[: self.axis], start + at[self.axis] - first, *at[self.axis + 1 :])
            start += last - first
        return None

    def _at(self, first: int, last: int) -> Tuple[slice, ...]:
        return (slice(None),) * self.axis + (slice(first, last),)
