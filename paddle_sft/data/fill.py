"""All rows of a split, chunk by chunk through the workers, into a store. Memory holds a few chunks at a time."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Callable, Iterator, List, Optional, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.data.chunk_work import ChunkWork, Findings
from paddle_sft.data.chunks import Chunk, Place, read_chunks
from paddle_sft.data.documents import BlockCutter
from paddle_sft.data.formats import RowReader
from paddle_sft.data.length_report import LengthReport
from paddle_sft.data.progress import RowBar
from paddle_sft.data.recipe import Recipe
from paddle_sft.data.sources import FoundSource
from paddle_sft.data.store import SampleBlock, StoreWriter
from paddle_sft.data.workers import map_in_order


@dataclass(frozen=True)
class Filled:
    """What is to be said about the rows of a split."""

    report: LengthReport
    unused_keys: Tuple[Tuple[str, int], ...]
    notes: Tuple[str, ...]


class _Work:
    """(number of the source, chunk, whether to look for bad rows only) -> the same place, samples and findings."""

    def __init__(self, works: List[ChunkWork]) -> None:
        self._works = works

    def __call__(self, task: Tuple[int, Chunk, bool]) -> Tuple[int, Place, int, SampleBlock, Findings]:
        number, chunk, only_check = task
        work = self._works[number]
        return (number, chunk.begin, chunk.num_rows, *(work.check(chunk) if only_check else work(chunk)))


def fill_store(
    recipe: Recipe,
    writer: StoreWriter,
    num_workers: int,
    bar: RowBar,
    belongs: Optional[Callable[[dict], bool]] = None,
) -> Filled:
    """Add the samples of all sources to `writer`, in file order, whatever `num_workers` is.

    Once a row is bad nothing more is tokenised, but all rows are read, so that every bad one is named.

    Raises:
        DataError: rows that can't be used, all of them; a source that gives no sample.
    """
    sources = [_Filling(source, recipe, writer, number) for number, source in enumerate(recipe.sources)]
    tasks = ((number, chunk, any(one.is_bad for one in sources)) for number, chunk in _all_chunks(recipe))
    num_files = [sum(len(one.files) for one in recipe.sources[:number]) for number in range(len(sources))]
    current = 0
    with closing(map_in_order(_Work(recipe.works(belongs)), tasks, num_workers)) as results:
        for number, begin, num_rows, block, findings in results:
            while current < number:
                sources[current].finish()
                current += 1
            sources[number].add(block, findings)
            bar.update(num_rows, begin, num_files[number])
    for source in sources[current:]:
        source.finish()
    whole = Findings()
    for source in sources:
        whole.extend(source.findings)
    limits = recipe.tools.limits
    whole.refuse(recipe.where, limits)
    report = whole.tally.report(limits, is_blocks=recipe.joins_documents, is_labelled=recipe.stage == "classification")
    if belongs is None or not belongs.wants_dev:  # val_size may take no row at all of a small source
        for source in sources:
            source.require_samples(whole.tally.counts["num_samples"])
    unused = sum((source.findings.unused for source in sources), Counter())
    return Filled(report, tuple(unused.most_common()), tuple(line for source in sources for line in source.lines()))


def _all_chunks(recipe: Recipe) -> Iterator[Tuple[int, Chunk]]:
    """(number of the source, chunk); recipe.max_samples holds for all sources together."""
    left = recipe.max_samples
    for number, source in enumerate(recipe.sources):
        num_rows = 0
        for chunk in read_chunks(source.files, source.limit(left)):
            num_rows += chunk.num_rows
            yield number, chunk
        left = None if left is None else left - num_rows


class _Filling:
    """What becomes of one source."""

    def __init__(self, source: FoundSource, recipe: Recipe, writer: StoreWriter, number: int) -> None:
        self.findings = Findings()
        self._source = source
        self._writer = writer
        self._number = number
        self._limits = recipe.tools.limits
        self._cutter = BlockCutter(self._limits.max_length) if recipe.joins_documents else None
        self._num_samples = 0

    @property
    def is_bad(self) -> bool:
        return self.findings.reading.num > 0

    def add(self, block: SampleBlock, findings: Findings) -> None:
        self.findings.extend(findings)
        self._write(block if self._cutter is None else self.findings.tally.keep(self._cutter.add(block)))

    def finish(self) -> None:
        if self._cutter is None:
            return
        last = self._cutter.finish()
        self.findings.tally.last_block = len(last.ids) or self._limits.max_length
        self._write(self.findings.tally.keep(last))

    def _write(self, block: SampleBlock) -> None:
        self._writer.add(block, self._number)
        self._num_samples += len(block)

    def require_samples(self, num_of_all: int) -> None:
        if not self._num_samples and num_of_all:
            raise DataError(f"data set {self._source.name} gives no sample at all; add rows, or leave it out")

    def lines(self) -> List[str]:
        reader = RowReader(self._source.stage, self._source.layout)
        reader.met = self.findings.met
        return [f"{self._source.name}: {line}" if self._source.name else line for line in reader.lines()]
