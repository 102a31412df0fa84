"""Steps over samples that are read while training, in bounded memory.

The stream is cut into blocks of about two million tokens. Each block is packed and shuffled by itself, and its rows go
into steps one behind the other; a step may take the end of one block and the beginning of the next. A checkpoint keeps
where the block begins, so a resumed run reads one block again and not all that came before it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import CheckpointError, DataError
from paddle_sft.core.records import Sample
from paddle_sft.data.stream_mix import Stream, StreamMix
from paddle_sft.packing.packers import PACKERS
from paddle_sft.packing.packs import permutation
from paddle_sft.train.feed import FeedSettings, Row, Step, unit_of
from paddle_sft.train.plan import StepShape

BLOCK_TOKENS = 1 << 21
"""1,024 rows of 2,048 tokens: large enough that the last, emptier row of each block costs a tenth of a percent."""
_SHUFFLE = 5
"""Tells the shuffle of a block from the other draws of one seed (see packing.packs)."""


@dataclass(frozen=True)
class StreamStage:
    """A part of a run with one mix, `steps` long (None: until the end of the run)."""

    mix: StreamMix
    steps: Optional[int] = None
    name: str = ""


@dataclass(frozen=True)
class Block:
    """Some samples in a row of the stream, and how they share rows."""

    samples: List[Sample]
    sources: np.ndarray
    """[samples]: number of the source of each."""
    rows: List[np.ndarray]
    """For each row the places of its samples."""
    ends_epoch: bool
    start: Dict[str, Any]
    """State of the mix before its first sample."""

    @property
    def crc32(self) -> int:
        """Of all its tokens."""
        digest = 0
        for sample in self.samples:
            digest = zlib.crc32(sample.ids.tobytes(), zlib.crc32(sample.trained.tobytes(), digest))
        return digest


class StreamFeed:
    """A feed over a stream. Its steps are asked for in order.

    Args:
        settings: max_steps is needed.
        block_tokens: a block ends with the sample that reaches so many.
    """

    num_epochs = 0.0
    """Not known."""

    def __init__(
        self, stream: Stream, stages: Sequence[StreamStage], settings: FeedSettings, block_tokens: int = BLOCK_TOKENS
    ) -> None:
        self.stream = stream
        self.stages = list(stages)
        self.settings = settings
        self.block_tokens = block_tokens
        self.num_steps = settings.max_steps
        self.check_ids: Callable[[int], None] = lambda largest: None
        """Called with the largest id of each block; raises when the model doesn't know it."""
        self._stage = self._steps_of_stage = self._num_steps = self._num_blocks = self._row = self._rows_of_epoch = 0
        self._epochs = 0
        self._block: Optional[Block] = None

    @property
    def shape(self) -> StepShape:
        return self.settings.shape

    @property
    def unit(self) -> str:
        return unit_of(self.settings.packing)

    def sizes(self) -> Dict[str, int]:
        """Not known."""
        return {}

    def epochs_after(self, num_steps: int) -> float:
        """Whole epochs that are done; how far the current one is, nobody knows."""
        return float(self._epochs)

    def step(self, number: int) -> Step:
        """Optimizer step `number`, the one behind the last that was asked for.

        Raises:
            DataError: data that can't be used, found only now; a source without samples.
        """
        if number != self._num_steps:
            raise ValueError(f"a stream gives its steps in order: {self._num_steps} comes next, not {number}")
        self._enter_stage()
        begins_epoch = self._rows_of_epoch == 0
        taken = self._take_rows()
        if self.shape.drop_last and len(taken) < self.shape.rows_per_step and not begins_epoch:
            self._end_epoch()
            begins_epoch, taken = True, self._take_rows()
        if not taken:
            raise DataError("the data gives no sample to train on")
        self._num_steps += 1
        self._steps_of_stage += 1
        stage = self.stages[self._stage]
        is_last = self._num_steps == self.num_steps or self._steps_of_stage == stage.steps
        ends_epoch = is_last or not self._has_row()
        if ends_epoch and not is_last:
            self._end_epoch()
        return self._make_step(taken, begins_epoch, ends_epoch, stage.name)

    def describe(self) -> Dict[str, Any]:
        """See Feed. What was read is checked when the block is read again."""
        settings = self.settings
        mixes = [
            [stage.mix.sources, stage.mix.shares, stage.mix.unit, stage.mix.repeats, stage.name, stage.steps]
            for stage in self.stages
        ]
        return {
            "samples_per_step": settings.shape.rows_per_step,
            "seed": settings.seed,
            "shuffle": settings.shuffle,
            "dataloader_drop_last": settings.shape.drop_last,
            "packing": settings.packing,
            "max_length": settings.capacity,
            "stages": mixes,
            "block_tokens": self.block_tokens,
            "data": self.stream.describe(),
        }

    def state(self) -> Dict[str, Any]:
        """Where the next row is."""
        block = self._block
        return {
            "stage": self._stage,
            "steps_of_stage": self._steps_of_stage,
            "epochs": self._epochs,
            "rows_of_epoch": self._rows_of_epoch,
            "num_blocks": self._num_blocks - (block is not None),
            "mix": self.stages[self._stage].mix.state() if block is None else block.start,
            "row": self._row,
            "crc32": None if block is None else block.crc32,
        }

    def restore(self, state: Mapping[str, Any], num_steps: int) -> None:
        """Go on behind `num_steps`.

        Raises:
            CheckpointError: the data is not what it was there.
        """
        self._num_steps, self._stage, self._steps_of_stage = num_steps, state["stage"], state["steps_of_stage"]
        self._epochs, self._rows_of_epoch = state["epochs"], state["rows_of_epoch"]
        self._num_blocks, self._row, self._block = state["num_blocks"], state["row"], None
        self.stages[self._stage].mix.restore(state["mix"])
        if state["crc32"] is None:
            return
        self._block = self._read_block()
        if self._block.crc32 != state["crc32"]:
            raise CheckpointError(
                "the data that comes next is not what the interrupted run read there; restore the data, or start "
                "afresh with another output_dir or overwrite_output_dir true"
            )

    def close(self) -> None:
        """No more is read."""
        for stage in self.stages:
            stage.mix.close()
        self.stream.close()

    # ---- rows --------------------------------------------------------------------------------------------------

    def _enter_stage(self) -> None:
        if self._steps_of_stage == self.stages[self._stage].steps:
            self.stages[self._stage].mix.close()
            self._stage += 1
            self._steps_of_stage = 0
            self._leave_block()

    def _end_epoch(self) -> None:
        self._epochs += 1
        self._leave_block()

    def _leave_block(self) -> None:
        self._rows_of_epoch = self._row = 0
        self._block = None

    def _take_rows(self) -> List[Tuple[Block, int]]:
        """The rows of a step; fewer at the end of an epoch."""
        taken: List[Tuple[Block, int]] = []
        while len(taken) < self.shape.rows_per_step and self._has_row():
            taken.append((self._block, self._row))
            self._row += 1
            self._rows_of_epoch += 1
        return taken

    def _has_row(self) -> bool:
        """Whether the epoch has another row; reads the next block if needed."""
        while self._block is None or self._row == len(self._block.rows):
            if self._block is not None and self._block.ends_epoch:
                return False
            self._block, self._row = self._read_block(), 0
        return True

    def _read_block(self) -> Block:
        mix = self.stages[self._stage].mix
        start = mix.state()
        samples: List[Sample] = []
        sources: List[int] = []
        num_tokens, ends_epoch = 0, False
        while num_tokens < self.block_tokens:
            found = mix.take()
            if found is None:
                ends_epoch = True
                break
            sources.append(found[0])
            samples.append(found[1])
            num_tokens += len(found[1])
        self.check_ids(max((int(sample.ids.max()) for sample in samples), default=0))
        rows = self._pack(np.array([len(sample) for sample in samples], dtype=np.int64))
        self._num_blocks += 1
        return Block(samples, np.array(sources, dtype=np.int64), rows, ends_epoch, start)

    def _pack(self, lengths: np.ndarray) -> List[np.ndarray]:
        settings = self.settings
        if not len(lengths):
            return []
        if settings.packing == "none":
            order = np.arange(len(lengths))
            if settings.shuffle:
                order = permutation(len(lengths), settings.seed, _SHUFFLE, self._stage, self._num_blocks)
            return [order[place : place + 1] for place in range(len(order))]
        words = np.random.SeedSequence([settings.seed, _SHUFFLE, self._stage, self._num_blocks]).generate_state(1)
        packs = PACKERS[settings.packing](lengths + settings.before_sample, settings.capacity, int(words[0]))
        return list(packs if settings.shuffle else packs.in_data_order())

    def _make_step(self, taken: Sequence[Tuple[Block, int]], begins: bool, ends: bool, stage: str) -> Step:
        rows: List[Row] = [[block.samples[place] for place in block.rows[row]] for block, row in taken]
        by_source: Dict[str, int] = {}
        for block, row in taken:
            for place in block.rows[row]:
                name = self.stream.source_names[block.sources[place]]
                by_source[name] = by_source.get(name, 0) + len(block.samples[place])
        return Step(
            rows,
            sum(sample.num_trained for row in rows for sample in row),
            sum(len(sample) for row in rows for sample in row),
            by_source if any(self.stream.source_names) else {},
            self.shape,
            begins,
            ends,
            stage,
        )
