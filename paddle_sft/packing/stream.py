"""Packing while reading: never more than a bounded number of samples is held back."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from typing import Iterable, Iterator, List, Tuple

from paddle_sft.packing.check import check_capacity, check_length


def pack_stream(lengths: Iterable[int], capacity: int, buffer: int) -> Iterator[List[int]]:
    """Rows of sample numbers (0 for the first length) from lengths that arrive one by one.

    A row first takes the oldest samples as long as they fit, as sequential packing would. The gap that is left is
    then filled from the samples in the buffer, each time with the longest that fits. To take a sample away early never
    makes sequential packing of the rest need more rows (it is monotone: Murgolo 1988, Anomalous behavior in bin packing
    algorithms), so the result never has more rows than sequential packing, whatever the lengths.

    At most `buffer` samples wait at any time, besides those of the row being filled.
    Measured times are in docs/packing.md.

    Raises:
        ValueError: a length is not positive or longer than a row; it names the sample. Rows already given out stand.
    """
    check_capacity(capacity)
    if buffer < 1:
        raise ValueError(f"the buffer of a packing must hold at least 1 sample, got {buffer}")
    waiting = Waiting(lengths, capacity, buffer)
    while waiting:
        row: List[int] = []
        room = capacity
        for choose in (waiting.oldest, lambda: waiting.longest(room)):
            sample, length = choose()
            while length <= room:
                waiting.take(sample, length)
                row.append(sample)
                room -= length
                sample, length = choose()
        yield row


class Waiting:
    """The samples that were read and are in no row yet; it refills itself as they are taken."""

    def __init__(self, lengths: Iterable[int], capacity: int, buffer: int) -> None:
        self.source = enumerate(lengths)
        self.capacity = capacity
        self.by_age: OrderedDict[int, int] = OrderedDict()  # sample -> length, oldest first
        self.by_length: List[Tuple[int, int]] = []  # (length, -sample): the oldest of equal lengths is the last of them
        for _ in range(buffer):
            self.read()

    def __len__(self) -> int:
        return len(self.by_length)

    def read(self) -> None:
        """Read one more sample, unless the source is at its end."""
        for sample, length in self.source:
            check_length(sample, length, self.capacity)
            self.by_age[sample] = length
            insort(self.by_length, (length, -sample))
            return

    def oldest(self) -> Tuple[int, int]:
        """(sample, length) of the sample that has waited longest; (-1, more than a row) when none waits."""
        for sample, length in self.by_age.items():
            return sample, length
        return -1, self.capacity + 1

    def longest(self, room: int) -> Tuple[int, int]:
        """(sample, length) of the longest sample of at most `room` tokens, the oldest of equals; as above when none."""
        place = bisect_right(self.by_length, (room, 0))
        if not place:
            return -1, self.capacity + 1
        length, negative = self.by_length[place - 1]
        return -negative, length

    def take(self, sample: int, length: int) -> None:
        """Put a sample into a row and read another in its place."""
        del self.by_age[sample]
        del self.by_length[bisect_right(self.by_length, (length, -sample)) - 1]
        self.read()
