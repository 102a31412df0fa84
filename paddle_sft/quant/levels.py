"""The numbers that codes stand for. All tables are float32, and their largest magnitude is 1 or a whole number."""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, Tuple

import numpy as np

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""NormalFloat4: quantiles of a normal distribution (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3
and appendix E)."""

_TWELFTHS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = tuple(value / 12.0 for value in _TWELFTHS) + tuple(-value / 12.0 + 0.0 for value in _TWELFTHS)
"""One sign bit, two bits of exponent, one of fraction, by bit pattern (not by size); code 8 is a second zero."""

INT4 = tuple(float(code - 8) for code in range(16))
INT8 = tuple(float(code - 128) for code in range(256))
"""Whole numbers stored with an offset; the smallest is never used, so that the scale is the same for both signs."""

LEVELS: Dict[str, np.ndarray] = {
    "nf4": np.array(NF4, dtype=np.float32),
    "fp4": np.array(FP4, dtype=np.float32),
    "weight_only_int4": np.array(INT4, dtype=np.float32),
    "weight_only_int8": np.array(INT8, dtype=np.float32),
}
"""Algorithm -> value of each code, before the scale."""


def midpoints(levels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(bounds between neighbouring levels by size, the code of each level by size).

    A value above bounds[i - 1] and at most bounds[i] has the code order[i]. Of two equal levels (fp4's zeros) the
    smaller code takes what is at most 0, as in bitsandbytes.
    """
    order = np.argsort(levels, kind="stable")
    rising = levels[order]
    return (rising[:-1] + rising[1:]) / np.float32(2), order.astype(np.int32)


@lru_cache(maxsize=None)
def dynamic_levels() -> np.ndarray:
    """The 256 levels of scales of scales: 7 decades of both signs, each finer than the one below (Dettmers 2015,
    https://arxiv.org/abs/1511.04561, section 2.3). Rising.

    Within decade i are 2**i centres of equal parts of [0.1, 1].
    """
    found = [np.zeros(1, np.float32), np.ones(1, np.float32)]
    for decade in range(7):
        centres = np.float32(10.0 ** (decade - 6)) * _centres(2**decade)
        found += [centres, -centres]
    return np.sort(np.concatenate(found))


def _centres(count: int) -> np.ndarray:
    """Centres of equal parts of [0.1, 1]. Edges are counted from the nearer end and rounded once, as torch.linspace
    does: bitsandbytes takes them from there."""
    low, high = np.float32(0.1), np.float32(1.0)
    step = np.float64(np.float32((high - low) / np.float32(count)))
    places = np.arange(count + 1)
    edges = np.where(places <= count // 2, low + step * places, high - step * (count - places)).astype(np.float32)
    return (edges[:-1] + edges[1:]) / np.float32(2)
