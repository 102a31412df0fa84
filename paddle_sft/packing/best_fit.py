"""Best-fit decreasing over the histogram of lengths: the work grows with distinct lengths, not with samples."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

WORD = 512
"""Bits of a word in the set of room sizes. About the square root of the longest row, so both levels stay short."""


class Placements(NamedTuple):
    """What best fit did, in the order in which it did it: rows first_row ... first_row + num_rows - 1 each took
    `copies` samples of one length. Lengths fall from placement to placement. Shapes: [placements] int64 each."""

    first_row: np.ndarray
    num_rows: np.ndarray
    copies: np.ndarray


class OpenRows:
    """Open rows by the room they have left, with the tightest room for a length found in constant time.

    Rows that were filled alike stand together as (first row, number of rows), so that one step moves them all.
    A set bit says that a room size has rows: WORD bits make a word, and one bit a word in the summary.
    """

    def __init__(self, capacity: int) -> None:
        self.spans: Dict[int, List[Tuple[int, int]]] = {}
        self.words = [0] * (capacity // WORD + 1)
        self.summary = 0

    def add(self, room: int, first_row: int, num_rows: int) -> None:
        """Open `num_rows` rows with `room` tokens left. A full row is not open."""
        if room == 0:
            return
        spans = self.spans.setdefault(room, [])
        if not spans:
            self.words[room // WORD] |= 1 << (room % WORD)
            self.summary |= 1 << (room // WORD)
        spans.append((first_row, num_rows))

    def take(self, room: int) -> Tuple[int, int]:
        """Close some rows with exactly `room` tokens left and return (first row, number of rows)."""
        spans = self.spans[room]
        span = spans.pop()
        if not spans:
            self.words[room // WORD] ^= 1 << (room % WORD)
            if not self.words[room // WORD]:
                self.summary ^= 1 << (room // WORD)
        return span

    def tightest(self, length: int) -> int:
        """The smallest room that holds `length` tokens; 0 when no open row does."""
        word, bit = divmod(length, WORD)
        here = self.words[word] >> bit
        if here:
            return length + lowest_bit(here)
        above = self.summary >> (word + 1)
        if not above:
            return 0
        word += 1 + lowest_bit(above)
        return word * WORD + lowest_bit(self.words[word])


def lowest_bit(bits: int) -> int:
    """Position of the lowest set bit of a positive number."""
    return (bits & -bits).bit_length() - 1


def place(counts: np.ndarray, capacity: int) -> Placements:
    """Best-fit decreasing: longest first, each sample into the row it leaves the least room in.

    A sample that still fits its row twice goes there again: what it left is now the tightest room. So one step places
    as many copies of a length as a row takes, in all rows that were filled alike.

    Shapes: counts [longest + 1], samples of each length.
    """
    open_rows = OpenRows(capacity)
    steps: List[Tuple[int, int, int]] = []
    num_rows = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            room = open_rows.tightest(length)
            if room:
                row, span = open_rows.take(room)
            else:
                room = capacity
                row, span = num_rows, -(-left // (room // length))
                num_rows += span
            copies = room // length
            whole = min(span, left // copies)
            if whole:
                steps.append((row, whole, copies))
                open_rows.add(room - copies * length, row, whole)
                left -= whole * copies
            if whole < span and left:  # fewer copies than a row takes
                steps.append((row + whole, 1, left))
                open_rows.add(room - left * length, row + whole, 1)
                whole += 1
                left = 0
            if whole < span:
                open_rows.add(room, row + whole, span - whole)
    return Placements(*np.array(steps, dtype=np.int64).reshape(-1, 3).T)


def rows_by_length(placements: Placements) -> np.ndarray:
    """The row of every sample, longest sample first [samples] int64."""
    sizes = placements.num_rows * placements.copies
    starts = np.cumsum(sizes) - sizes
    offset = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
    return np.repeat(placements.first_row, sizes) + offset // np.repeat(placements.copies, sizes)
