"""How few rows could hold these samples: bounds that no packing can beat, in whole numbers, hence exact."""

from __future__ import annotations

import numpy as np

MAX_DIVISOR = 64
"""Divisors tried by `dual_feasible_bound`. More of them never helped on the measured distributions."""


def lower_bound(counts: np.ndarray, capacity: int) -> int:
    """The best of the bounds below; every packing of these samples has at least so many rows.

    Shapes: counts [longest + 1], samples of each length; index 0 is ignored. Cost: O(MAX_DIVISOR * capacity).
    """
    full = np.zeros(capacity + 1, dtype=np.int64)
    full[1 : len(counts)] = counts[1:]
    divided = (dual_feasible_bound(full, divisor) for divisor in range(2, MAX_DIVISOR + 1))
    return max(token_bound(full), martello_toth_bound(full), *divided)


def token_bound(counts: np.ndarray) -> int:
    """All tokens in full rows. Shapes: counts [capacity + 1]."""
    capacity = len(counts) - 1
    return -(-int(counts @ np.arange(capacity + 1)) // capacity)


def martello_toth_bound(counts: np.ndarray) -> int:
    """Bound L2 of Martello and Toth (1990, Lower bounds and reduction procedures for the bin packing problem).

    For a threshold t up to half a row: samples longer than capacity - t get a row each that nothing of at least t can
    share; those above half a row get a row each too, but may share it; samples from t to half a row fill what those
    leave and then rows of their own. The best threshold wins. Shapes: counts [capacity + 1].
    """
    capacity = len(counts) - 1
    return threshold_bound(counts, counts * np.arange(capacity + 1), capacity)


def dual_feasible_bound(counts: np.ndarray, divisor: int) -> int:
    """Bound of Fekete and Schepers (2001, New classes of fast lower bounds for bin packing problems).

    Round every length x to floor((divisor + 1) x / capacity) / divisor of a row, keeping it where the division is
    even: what fitted into a row still does. Then drop samples below a threshold and let those above capacity -
    threshold fill a row, for the best threshold. Shapes: counts [capacity + 1].
    """
    capacity = len(counts) - 1
    parts, remainder = np.divmod((divisor + 1) * np.arange(capacity + 1), capacity)
    # in units of 1 / (divisor * (divisor + 1)) of a row
    sizes = np.where(remainder == 0, parts * divisor, parts * (divisor + 1))
    return threshold_bound(counts, counts * sizes, divisor * (divisor + 1))


def threshold_bound(counts: np.ndarray, sizes: np.ndarray, unit: int) -> int:
    """Rows for the best threshold t: one for every sample above capacity - t, and the sizes from t to capacity - t.

    With sizes in tokens this is L2 but for the samples above half a row, which need a row each whatever t is.
    Shapes: counts, sizes [capacity + 1]; `unit` is the size of a full row.
    """
    capacity = len(counts) - 1
    thresholds = np.arange(capacity // 2 + 1)
    samples = np.concatenate([[0], np.cumsum(counts)])
    size = np.concatenate([[0], np.cumsum(sizes)])
    alone = samples[-1] - samples[capacity - thresholds + 1]
    shared = size[capacity - thresholds + 1] - size[thresholds]
    big = samples[-1] - samples[capacity // 2 + 1]
    return int(np.maximum(alone + -(-shared // unit), big).max())
