"""What each optimizer step sees. All samples are there from the start, so any step can be asked for at once: resuming
needs no state. `stream_feed` is for samples that are read while training.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from itertools import count
from typing import Any, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.records import Sample
from paddle_sft.data.mixing import Mix
from paddle_sft.data.rows import Rows
from paddle_sft.data.store import SampleStore
from paddle_sft.packing.packers import PACKERS
from paddle_sft.packing.packs import Packs
from paddle_sft.train.plan import StepShape, row_order

Row = Sequence[Sample]


@dataclass(frozen=True)
class Step:
    """One optimizer step over all ranks."""

    rows: Sequence[Row]
    """Read when asked for, so a rank reads its own only."""
    num_trained: int
    num_tokens: int
    tokens_by_source: Dict[str, int]
    """Empty when the data has no named sources."""
    shape: StepShape
    begins_epoch: bool = False
    ends_epoch: bool = False
    stage: str = ""
    """Name of its stage, in a run of several."""

    def micro_batches(self, rank: int) -> List[List[Row]]:
        """The rows of each forward pass of one rank; the last may be empty."""
        places = self.shape.micro_batches(len(self.rows), rank)
        return [[self.rows[place] for place in one] for one in places]

    def places(self) -> Iterator[str]:
        """Where its samples stand in the data."""
        return (sample.place for row in self.rows for sample in row)


@dataclass(frozen=True)
class RunStage:
    """A part of a run with one mix. Its length is one of epochs, steps and tokens; none of them: until max_steps."""

    mix: Mix
    epochs: Optional[float] = None
    steps: Optional[int] = None
    tokens: Optional[int] = None
    name: str = ""


@dataclass(frozen=True)
class Segment:
    """The steps of one epoch of one stage, or the part of them that the run takes."""

    stage: int
    epoch: int
    first_step: int
    num_steps: int
    num_steps_of_epoch: int
    epochs_before: float

    @property
    def end(self) -> int:
        return self.first_step + self.num_steps


@dataclass(frozen=True)
class FeedSettings:
    """How the samples of a run become steps."""

    shape: StepShape
    seed: int
    shuffle: bool = True
    packing: str = "none"
    """none or a name of packing.packers.PACKERS."""
    capacity: int = 0
    """Tokens that a packed row holds."""
    before_sample: int = 0
    """Of them those that the model itself puts before every sample."""
    max_steps: int = -1
    """Above 0 the run ends there."""


class Feed(Protocol):
    """What the trainer asks."""

    shape: StepShape
    num_steps: int
    """Optimizer steps of the whole run."""
    num_epochs: float
    unit: str
    """What a row is, for people."""

    def sizes(self) -> Dict[str, int]:
        """Of the first epoch: samples, rows, tokens, trained tokens, steps; empty when that is not known."""

    def step(self, number: int) -> Step:
        """Optimizer step `number`, from 0. Asked for in order."""

    def epochs_after(self, num_steps: int) -> float:
        """Epochs that are done after so many steps, over all stages."""

    def describe(self) -> Dict[str, Any]:
        """What must be the same on resume for the data to go on: anything else would silently be another run."""

    def state(self) -> Dict[str, Any]:
        """What a checkpoint keeps of the place in the data, beside the number of steps."""

    def restore(self, state: Dict[str, Any], num_steps: int) -> None:
        """Go on behind `num_steps`, with what `state` returned there."""

    def close(self) -> None:
        """No more steps are asked for."""


class MapFeed:
    """Steps over a store of samples.

    Raises:
        ArgumentError: max_steps is beyond the end of the stages, or nothing is taken in any of them.
    """

    def __init__(self, samples: SampleStore, stages: Sequence[RunStage], settings: FeedSettings) -> None:
        self.samples = samples
        self.stages = list(stages)
        self.settings = settings
        self._kept: Dict[Tuple[int, int], Rows] = {}
        self._coming = self._make_segments()
        self._segments: List[Segment] = []
        self._first_steps: List[int] = []
        self.num_steps = settings.max_steps
        if not self._is_endless:
            for segment in self._coming:
                self._add(segment)
            end = self._segments[-1].end if self._segments else 0
            if not end:
                raise ArgumentError("mixing takes no sample in any epoch of the run; raise epochs or shares")
            if settings.max_steps > end:
                raise ArgumentError(
                    f"max_steps is {settings.max_steps}, and data_stages end after {end} steps; leave max_steps out"
                )
            self.num_steps = min(end, settings.max_steps) if settings.max_steps > 0 else end

    @property
    def shape(self) -> StepShape:
        return self.settings.shape

    @property
    def num_epochs(self) -> float:
        """Of the whole run, over all stages."""
        return self.epochs_after(self.num_steps)

    @property
    def unit(self) -> str:
        return unit_of(self.settings.packing)

    def first_rows(self, stage: int = 0) -> Rows:
        """The rows of the first epoch of a stage."""
        return self._rows(stage, 0)

    def sizes(self) -> Dict[str, int]:
        """See Feed."""
        rows = self.first_rows()
        return {
            "num_samples": len(rows.lengths),
            "num_rows": len(rows),
            "num_tokens": int(rows.num_tokens.sum()),
            "num_trained_tokens": int(rows.num_trained.sum()),
            "steps_per_epoch": self.shape.num_steps(len(rows)),
        }

    def step(self, number: int) -> Step:
        """Optimizer step `number`, from 0."""
        segment, rows = self._segment(number), self._rows_of(number)
        within = number - segment.first_step
        places = self._order(segment.stage, segment.epoch, len(rows))[self.shape.of_step(within)]
        return Step(
            _Chosen(rows, places),
            int(rows.num_trained[places].sum()),
            int(rows.num_tokens[places].sum()),
            self._tokens_by_source(rows, places),
            self.shape,
            begins_epoch=within == 0,
            ends_epoch=number + 1 in (segment.end, self.num_steps),
            stage=self.stages[segment.stage].name,
        )

    def epochs_after(self, num_steps: int) -> float:
        """Epochs that are done after so many steps, over all stages."""
        if num_steps == 0:
            return 0.0
        segment = self._segment(num_steps - 1)
        return segment.epochs_before + (num_steps - segment.first_step) / segment.num_steps_of_epoch

    def stage_segments(self) -> List[List[Segment]]:
        """What is known of the epochs of each stage."""
        return [[one for one in self._segments if one.stage == stage] for stage in range(len(self.stages))]

    def describe(self) -> Dict[str, Any]:
        """See Feed."""
        settings = self.settings
        lengths = [[stage.name, stage.epochs, stage.steps, stage.tokens] for stage in self.stages]
        mixing = [
            [f"{source.name}: {quota}" for source, quota in zip(stage.mix.sources, stage.mix.quotas)]
            for stage in self.stages
        ]
        rows = [self._rows(stage, 0).digest() for stage in range(len(self.stages))]
        return {
            "num_samples": len(self.samples),
            "samples_per_step": settings.shape.rows_per_step,
            "seed": settings.seed,
            "shuffle": settings.shuffle,
            "dataloader_drop_last": settings.shape.drop_last,
            "packing": settings.packing,
            "mixing": mixing,
            "stages": lengths[:-1],  # a longer last stage is the same run
            "data": self.samples.fingerprint(),
            "rows": f"{zlib.crc32(b''.join(rows)):08x}",
        }

    def state(self) -> Dict[str, Any]:
        """Nothing: any step can be asked for."""
        return {}

    def restore(self, state: Dict[str, Any], num_steps: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    # ---- epochs ------------------------------------------------------------------------------------------------

    @property
    def _is_endless(self) -> bool:
        last = self.stages[-1]
        return last.epochs is None and last.steps is None and last.tokens is None

    def _make_segments(self) -> Iterator[Segment]:
        first_step, epochs = 0, 0.0
        for number, stage in enumerate(self.stages):
            begin = first_step
            tokens = 0
            for epoch in count():
                rows = self._rows(number, epoch)
                whole = taken = self.shape.num_steps(len(rows)) if len(rows) else 0
                if stage.epochs is not None:
                    # rounded, because 1.1 epochs of 10 steps are 11 steps and not 12
                    taken = min(whole, math.ceil(round((stage.epochs - epoch) * whole, 9)))
                elif stage.steps is not None:
                    taken = min(whole, begin + stage.steps - first_step)
                elif stage.tokens is not None and whole:
                    ends = tokens + np.cumsum(self._tokens_of_steps(number, epoch, rows))
                    taken = min(whole, int(np.searchsorted(ends, stage.tokens)) + 1)
                    tokens = int(ends[taken - 1])
                if whole:
                    yield Segment(number, epoch, first_step, taken, whole, epochs)
                first_step, epochs = first_step + taken, epochs + (taken / whole if whole else 1.0)
                if self._is_over(stage, epoch, first_step - begin, tokens):
                    break

    @staticmethod
    def _is_over(stage: RunStage, epoch: int, num_steps: int, num_tokens: int) -> bool:
        if stage.epochs is not None:
            return epoch + 1 >= stage.epochs
        if stage.steps is not None:
            return num_steps >= stage.steps
        return stage.tokens is not None and num_tokens >= stage.tokens

    def _tokens_of_steps(self, stage: int, epoch: int, rows: Rows) -> np.ndarray:
        tokens = rows.num_tokens[self._order(stage, epoch, len(rows))]
        return np.add.reduceat(tokens, np.arange(0, len(rows), self.shape.rows_per_step))

    def _segment(self, step: int) -> Segment:
        while not self._segments or self._segments[-1].end <= step:
            self._add(next(self._coming))
        return self._segments[bisect_right(self._first_steps, step) - 1]

    def _add(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._first_steps.append(segment.first_step)

    def _rows_of(self, step: int) -> Rows:
        segment = self._segment(step)
        return self._rows(segment.stage, segment.epoch)

    def _rows(self, stage: int, epoch: int) -> Rows:
        """The rows of an epoch. Those of a mix that is always the same, and of the last epoch asked for, are kept."""
        mix = self.stages[stage].mix
        epoch = 0 if mix.is_static else epoch
        if (stage, epoch) not in self._kept:
            self._kept = {key: rows for key, rows in self._kept.items() if self.stages[key[0]].mix.is_static}
            numbers = mix.draw(epoch)
            self._kept[stage, epoch] = Rows(self.samples, numbers, self._pack(mix, numbers, stage, epoch))
        return self._kept[stage, epoch]

    def _pack(self, mix: Mix, numbers: np.ndarray, stage: int, epoch: int) -> Optional[Packs]:
        settings = self.settings
        if settings.packing == "none":
            return None
        packs = PACKERS[settings.packing](
            self.samples.lengths[numbers] + settings.before_sample,
            settings.capacity,
            settings.seed if mix.is_static else epoch_seed(settings.seed, stage, epoch),
        )
        return packs if settings.shuffle else packs.in_data_order()

    def _order(self, stage: int, epoch: int, num_rows: int) -> np.ndarray:
        return row_order(num_rows, self.settings.seed, stage, epoch) if self.settings.shuffle else np.arange(num_rows)

    def _tokens_by_source(self, rows: Rows, places: np.ndarray) -> Dict[str, int]:
        if not any(self.samples.source_names):
            return {}
        numbers = np.concatenate([rows.numbers(place) for place in places])
        sums = np.bincount(self.samples.source[numbers], self.samples.lengths[numbers], len(self.samples.source_names))
        return {name: int(num) for name, num in zip(self.samples.source_names, sums) if num}


def unit_of(packing: str) -> str:
    return "samples" if packing == "none" else "packed rows"


def epoch_seed(seed: int, stage: int, epoch: int) -> int:
    """The packer's seed for an epoch whose samples are its own."""
    return int(np.random.SeedSequence([seed, 4, stage, epoch]).generate_state(1, np.uint32)[0])


class _Chosen(Sequence):
    """Some rows, read when asked for."""

    def __init__(self, rows: Rows, places: np.ndarray) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[int(self._places[index])]
