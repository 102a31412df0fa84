"""Files as chunks of rows that are not parsed yet: what is sent to a worker, and from where one can go on reading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from paddle_sft.data.json_rows import FoundRow, RawLine
from paddle_sft.data.problems import Problems
from paddle_sft.data.source import can_begin_anywhere, label, read_items

NUM_ROWS = 512
"""Rows of a chunk: large enough to fill a tokenizer's batch, small enough to share out and to move a progress bar."""
NUM_BYTES = 1 << 20
"""A chunk of lines ends behind this many bytes, so that long documents don't make large chunks."""

Item = Union[RawLine, FoundRow, str]
"""A line of JSON; a row of any other kind of file; or, in words, what is wrong with the file at this place."""


class Place(NamedTuple):
    """Where a row stands in a list of files, in numbers that JSON can keep."""

    file: int = 0
    """Index of the file."""
    num_items: int = 0
    """Rows of the file before it."""
    line: int = 1
    offset: int = 0
    """The row's line and the bytes before it; 1 and 0 in a file that can only be read from its begin."""
    num_rows: int = 0
    """Rows of all files before it."""


@dataclass(frozen=True)
class Chunk:
    """Rows of one file that stand together."""

    begin: Place
    name: str
    """What the file is called in places."""
    items: Tuple[Item, ...]

    @property
    def num_rows(self) -> int:
        return sum(not isinstance(item, str) for item in self.items)

    def __str__(self) -> str:
        first = self.begin.num_items + 1
        return f"{self.name} rows {first:,} to {first + self.num_rows - 1:,}"


def read_chunks(files: Sequence[Path], max_rows: Optional[int] = None, begin: Place = Place()) -> Iterator[Chunk]:
    """The rows from `begin` on. `max_rows` counts from the first file on, bad rows too."""
    num_rows = begin.num_rows
    for number in range(begin.file, len(files)):
        start = begin if number == begin.file else Place(number, num_rows=num_rows)
        for chunk in _read_file(files[number], start, max_rows):
            num_rows = chunk.begin.num_rows + chunk.num_rows
            yield chunk


def _read_file(path: Path, begin: Place, max_rows: Optional[int]) -> Iterator[Chunk]:
    place, num_bytes = begin, 0
    items: List[Item] = []
    num_items, num_rows = begin.num_items, begin.num_rows
    if max_rows is not None and num_rows >= max_rows:
        return
    for item in _read_items(path, begin):
        if not items:
            place, num_bytes = Place(begin.file, num_items, *_line_of(item, path), num_rows), 0
        items.append(item)
        if isinstance(item, str):
            continue
        num_items, num_rows = num_items + 1, num_rows + 1
        num_bytes += len(item.content) if isinstance(item, RawLine) else 0
        if len(items) >= NUM_ROWS or num_bytes >= NUM_BYTES or num_rows == max_rows:
            yield Chunk(place, label(path), tuple(items))
            items = []
        if num_rows == max_rows:
            return
    if items:
        yield Chunk(place, label(path), tuple(items))


def _read_items(path: Path, begin: Place) -> Iterator[Item]:
    problems = Problems(num_shown=None)
    first = RawLine(begin.line, begin.offset, b"") if begin.offset else None
    left = 0 if first else begin.num_items
    for item in read_items(path, problems, first):
        if left:
            left -= 1
            problems.shown.clear()  # said when that row was read
            continue
        yield from problems.shown
        problems.shown.clear()
        yield item
    yield from problems.shown


def _line_of(item: Item, path: Path) -> Tuple[int, int]:
    return (item.number, item.start) if isinstance(item, RawLine) and can_begin_anywhere(path) else (1, 0)
