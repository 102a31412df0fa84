"""The packers. Each maps lengths to rows and depends on nothing else: not on ranks, platform or NumPy's version.

A new packer is a function here and a line in PACKERS; the tests loop over the catalogue.
"""

from __future__ import annotations

from typing import Callable, Dict

import numpy as np

from paddle_sft.packing.best_fit import place, rows_by_length
from paddle_sft.packing.check import checked
from paddle_sft.packing.packs import TIES, Packs, permutation, shuffled
from paddle_sft.packing.stream import pack_stream

Packer = Callable[[np.ndarray, int, int], Packs]
"""(lengths [samples], capacity, seed) -> Packs: every sample once, rows of at most `capacity` tokens, random order.

Raises ValueError, naming the sample, where one is empty or longer than a row: `data.length_policy` comes first.
"""

GREEDY_BUFFER = 500
"""Samples that greedy packing looks ahead, as many as PaddleNLP's greedy_zero_padding does."""


def pack_best_fit(lengths: np.ndarray, capacity: int, seed: int) -> Packs:
    """Best-fit decreasing over all samples: longest first, each into the row where it leaves the least room.

    Which of several samples of one length goes where is drawn by the seed, not by their order in the data.
    Measured times and memory are in docs/packing.md.
    """
    lengths = checked(lengths, capacity)
    ties = permutation(len(lengths), seed, TIES)
    # 16 bits where they are enough: NumPy then sorts by radix, which is several times faster
    shortfall = (capacity - lengths[ties]).astype(np.uint16 if capacity < 1 << 16 else np.int64)
    longest_first = ties[np.argsort(shortfall, kind="stable")]
    placements = place(np.bincount(lengths), capacity)
    row_of_sample = np.empty_like(lengths)
    row_of_sample[longest_first] = rows_by_length(placements)
    return shuffled(row_of_sample, int(row_of_sample.max(initial=-1)) + 1, seed)


def pack_sequential(lengths: np.ndarray, capacity: int, seed: int) -> Packs:
    """Rows filled in data order: a row ends before the first sample that does not fit. Neighbours stay together."""
    lengths = checked(lengths, capacity)
    ends = np.cumsum(lengths)
    # following[i]: the first sample of the next row if a row starts at sample i
    following = np.searchsorted(ends, ends - lengths + capacity, side="right")
    jump = memoryview(following)  # gives Python numbers without a list of them
    starts = np.zeros(len(lengths), dtype=np.int64)
    sample = 0
    while sample < len(lengths):
        starts[sample] = 1
        sample = jump[sample]
    return shuffled(np.cumsum(starts) - 1, int(starts.sum()), seed)


def pack_greedy(lengths: np.ndarray, capacity: int, seed: int) -> Packs:
    """Rows filled in data order, and each gap from the next 500 samples: see `stream.pack_stream`.

    For those who used greedy_zero_padding: as bounded and as close to the data's order, but never more rows than
    sequential packing. PaddleNLP's own starts anew every 500 samples and spreads samples over the emptiest rows, and so
    needs more rows than sequential packing where samples are short.
    """
    lengths = checked(lengths, capacity)
    row_of_sample = np.empty_like(lengths)
    num_rows = 0
    for row in pack_stream(memoryview(lengths), capacity, GREEDY_BUFFER):
        row_of_sample[row] = num_rows
        num_rows += 1
    return shuffled(row_of_sample, num_rows, seed)


PACKERS: Dict[str, Packer] = {
    "best_fit": pack_best_fit,
    "greedy": pack_greedy,
    "sequential": pack_sequential,
}

DEFAULT_PACKER = "best_fit"
