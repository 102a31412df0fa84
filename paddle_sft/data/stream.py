"""Samples that are read while training, in bounded memory: the same as those of `build.build_samples`, in file order.

Rows are read and tokenised ahead by worker processes, which are forked as the stream is made: make it before the model,
whose memory they would otherwise share and copy.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.log import get_logger
from paddle_sft.core.records import Sample
from paddle_sft.core.threads import num_cores, ranks_here
from paddle_sft.data.chunk_work import Findings
from paddle_sft.data.chunks import Chunk, Place, read_chunks
from paddle_sft.data.documents import BlockCutter
from paddle_sft.data.length_report import Tally
from paddle_sft.data.recipe import Recipe, find_recipe
from paddle_sft.data.source import label
from paddle_sft.data.store import SampleBlock
from paddle_sft.data.workers import WorkerPool, in_turn

CHUNKS_AHEAD = 32
"""Chunks of a source that are tokenised before they are asked for: at most 32 MB of text, about 50 MB of samples."""
MOST_WORKERS = 4
"""Of a rank, unless preprocessing_num_workers says more: tokenising is far faster than training."""


class Position(NamedTuple):
    """Where reading a source can begin again."""

    place: Place
    num_samples: int = 0
    """Samples of the source before it."""
    num_tokens: int = 0
    """Tokens at `place` that belong to samples before it (documents that run on from block to block)."""

    def as_json(self) -> Dict[str, Any]:
        return {"place": list(self.place), "num_samples": self.num_samples, "num_tokens": self.num_tokens}

    @classmethod
    def of_json(cls, content: Optional[Dict[str, Any]]) -> Position:
        """What `as_json` wrote; the begin of the source for None."""
        if content is None:
            return cls(Place())
        return cls(Place(*content["place"]), content["num_samples"], content["num_tokens"])


class SampleStream:
    """The samples of several sources, each to be iterated as often as one likes, also at the same time.

    Every rank reads all of them: what a step takes is decided the same on each.
    """

    def __init__(self, recipe: Recipe, num_workers: int, seed: Optional[int] = None) -> None:
        self.source_names: Tuple[str, ...] = tuple(source.name for source in recipe.sources)
        self._recipe = recipe
        self._seed = seed
        self._row_limits = _row_limits(recipe)
        self._findings = Findings()
        self._is_closed = False
        self._pool = WorkerPool(recipe.works(), num_workers)

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def source_samples(
        self, source: int, epoch: int, skip: int = 0, start: Optional[Dict[str, Any]] = None
    ) -> SourceSamples:
        """The samples of one source (index into source_names) in one pass over it, without the first `skip`.

        Files are read in their order; with a seed, where samples don't run on from file to file, in one that is drawn
        for each pass. `start` is the position of an iterator of the same source and epoch that was at most `skip`
        samples from the begin: what stands before it isn't read again.

        Raises (while iterating):
            DataError: a row that can't be used; a worker process was killed.
        """
        position = Position.of_json(start)
        begins: Deque[Place] = deque()
        chunks = _noted(read_chunks(self._files(source, epoch), self._row_limits[source], position.place), begins)
        num_ahead = max(CHUNKS_AHEAD // len(self.source_names), 2)
        results = in_turn(self._pool, chunks, num_ahead, work=source)
        blocks = ((begins.popleft(), self._require_good(block, found)) for block, found in results)
        return SourceSamples(blocks, self._recipe, self._findings.tally, position, skip)

    def describe(self) -> Dict[str, Any]:
        """What must be the same when a run is resumed, in JSON values; of files their names and sizes."""
        limits = self._recipe.tools.limits
        render = self._recipe.tools.render
        sources = [
            {
                "name": source.name,
                "stage": source.stage,
                "max_rows": limit,
                "files": [[label(path), path.stat().st_size] for path in source.files],
            }
            for source, limit in zip(self._recipe.sources, self._row_limits)
        ]
        return {
            "sources": sources,
            "lengths": [limits.policy, limits.src_length, limits.max_length],
            "template": render.name if render else None,
            "joins_documents": self._recipe.joins_documents,
            "seed": self._seed,
        }

    def lines(self) -> List[str]:
        """What became of the rows that were read so far, ahead too, and again where one was read again."""
        if not self._findings.tally.counts["num_samples"]:
            return []
        kind = dict(is_blocks=self._recipe.joins_documents, is_labelled=self._recipe.stage == "classification")
        return self._findings.tally.report(self._recipe.tools.limits, **kind).lines()

    def close(self) -> None:
        """End the workers, and say what was read."""
        if self._is_closed:
            return
        self._is_closed = True
        self._pool.close()
        for line in self.lines():
            get_logger().info("read while training: %s", line)

    def _files(self, source: int, epoch: int) -> List[Path]:
        files = list(self._recipe.sources[source].files)
        if self._seed is not None and not self._recipe.joins_documents and self._row_limits[source] is None:
            random.Random(f"{self._seed} {epoch} {source}").shuffle(files)
        return files

    def _require_good(self, block: SampleBlock, findings: Findings) -> SampleBlock:
        try:
            findings.refuse(self._recipe.where, self._recipe.tools.limits)
        except DataError as error:
            raise DataError(
                f"{error}\n(lazy reads while training; with lazy false all rows are checked first)"
            ) from None
        self._findings.extend(findings)
        return block


class SourceSamples(Iterator[Sample]):
    """The samples of one pass over a source; made by `SampleStream.source_samples`.

    Args:
        blocks: (where a chunk begins, what was made of it), from `start` on.
        tally: counts the blocks that documents are cut into here.
        skip: samples from the begin of the source that are not given.
    """

    def __init__(
        self, blocks: Iterator[Tuple[Place, SampleBlock]], recipe: Recipe, tally: Tally, start: Position, skip: int
    ) -> None:
        self._blocks = blocks
        self._tally = tally
        self._max_length = recipe.tools.limits.max_length
        self._cutter = BlockCutter(self._max_length, start.num_tokens) if recipe.joins_documents else None
        self._num_samples = start.num_samples
        """Samples of the source before the next one."""
        self._begin = start
        """Of the chunk that the last sample came from; where documents run on, the next one begins there, too."""
        self._num_tokens = start.num_samples * self._max_length - start.num_tokens
        """Tokens of the source before that chunk, where documents run on."""
        self._samples = self._iterate()
        while self._num_samples < skip and next(self, None) is not None:
            pass

    def __next__(self) -> Sample:
        sample = next(self._samples)
        self._num_samples += 1
        return sample

    @property
    def position(self) -> Dict[str, Any]:
        """At the next sample or some before it, in JSON values: `start` for `SampleStream.source_samples`."""
        if self._cutter is None:
            return self._begin.as_json()
        used = self._num_samples * self._max_length - self._num_tokens
        return Position(self._begin.place, self._num_samples, used).as_json()

    def _iterate(self) -> Iterator[Sample]:
        num_tokens = self._num_tokens
        for place, block in self._blocks:
            self._begin = Position(place, self._num_samples)
            self._num_tokens = num_tokens
            num_tokens += len(block.ids)
            yield from block if self._cutter is None else self._tally.keep(self._cutter.add(block))
        if self._cutter is not None:
            last = self._tally.keep(self._cutter.finish())
            self._tally.last_block = len(last.ids) or self._max_length
            yield from last


def build_stream(
    arguments, tokenizer: Any, stage: str, model_folder: Optional[Path] = None, seed: Optional[int] = None
) -> SampleStream:
    """The training samples of `arguments` (DataArguments) as a stream; `seed` draws the order of the files.

    Raises:
        ArgumentError, DataError: as `build.build_samples`, except for rows, which are read later.
    """
    recipe = find_recipe(arguments, tokenizer, "train", stage, model_folder)
    at_most = min(max(num_cores() // ranks_here(), 1), MOST_WORKERS)
    return SampleStream(recipe, arguments.preprocessing_num_workers or at_most, seed)


def _row_limits(recipe: Recipe) -> List[Optional[int]]:
    """How many rows of each source are read; max_samples of all together is shared out in their order."""
    limits: List[Optional[int]] = []
    left = recipe.max_samples
    for source in recipe.sources:
        limits.append(source.limit(left))
        if left is not None and len(recipe.sources) > 1:
            left -= sum(chunk.num_rows for chunk in read_chunks(source.files, limits[-1]))
    return limits


def _noted(chunks: Iterator[Chunk], begins: Deque[Place]) -> Iterator[Chunk]:
    for chunk in chunks:
        begins.append(chunk.begin)
        yield chunk
