"""What a packer refuses: it never drops or cuts a sample, that is the length policy's."""

from __future__ import annotations

import numpy as np


def check_capacity(capacity: int) -> None:
    """Raises:
    ValueError: a row holds no token.
    """
    if capacity < 1:
        raise ValueError(f"a row must hold at least 1 token, got {capacity}")


def check_length(sample: int, length: int, capacity: int) -> None:
    """Raises:
    ValueError: the sample is empty or longer than a row.
    """
    if length < 1:
        raise ValueError(f"sample {sample} has {length} tokens; a packed sample has at least 1, leave it out")
    if length > capacity:
        raise ValueError(f"sample {sample} has {length} tokens and a row holds {capacity}; apply length_policy first")


def checked(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """`lengths` as an int64 array [samples].

    Raises:
        ValueError: not a list of whole numbers, or a sample is empty or longer than a row (the first is named).
    """
    check_capacity(capacity)
    array = np.asarray(lengths)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"lengths must be a flat array of whole numbers, got {array.dtype} of shape {array.shape}")
    array = array.astype(np.int64, copy=False)
    if array.size and (array.min() < 1 or array.max() > capacity):
        first = int(np.argmax((array < 1) | (array > capacity)))
        check_length(first, int(array[first]), capacity)
    return array
