"""Which samples an epoch takes of each source. Exact counts, no dice: what a mix promises is what a run gives.

The samples of a source stand in one random order, drawn once. An epoch takes the next so many of them, and after the
last goes on with the first: epochs that take a part take another part each time, and no sample comes twice before all
came once. Everything follows from the seed and the number of the epoch.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Dict, List, Optional, Sequence

import numpy as np

from paddle_sft.core.errors import DataError
from paddle_sft.data.quotas import Quota, SourceSamples
from paddle_sft.data.store import SampleStore
from paddle_sft.packing.packs import permutation

_DRAW = 3
"""Tells the order of a source from the other draws of one seed (see packing.packs)."""


class Drawer:
    """The samples of one source in the order in which epochs take them.

    Args:
        order: [n], a permutation; None leaves the samples as they stand.
        unit: in which `given` answers.
    """

    def __init__(self, source: SourceSamples, quota: Quota, unit: str, order: Optional[np.ndarray] = None) -> None:
        order = np.arange(len(source.numbers)) if order is None else order
        self.quota = quota
        self._numbers = source.numbers[order]
        units = {quota.unit, unit} | ({"tokens"} if quota.max_tokens is not None else set())
        self._sums = {one: _Sums(source.sizes(one)[order]) for one in units}
        self._unit = unit
        self._starts = [0]

    @property
    def gives_nothing(self) -> bool:
        """Whether the first sample is beyond the cap; as nothing is skipped, it stays so for ever."""
        return self.quota.max_tokens is not None and self._sums["tokens"].last(Fraction(self.quota.max_tokens)) == 0

    def draw(self, epoch: int) -> np.ndarray:
        """Numbers of the samples that an epoch takes, once `advance` went beyond it."""
        places = np.arange(self._starts[epoch], self._starts[epoch + 1])
        return self._numbers[places % len(self._numbers)]

    def num_taken(self, num_epochs: int) -> int:
        """Samples that the first epochs take."""
        return self._starts[num_epochs]

    def given(self) -> int:
        """How much all epochs so far have taken."""
        return self._sums[self._unit].upto(self._starts[-1])

    def advance(self, others: int = 0) -> None:
        """Take another epoch, after the sources without a ratio have given `others` in all epochs so far."""
        quota, start, sums = self.quota, self._starts[-1], self._sums[self.quota.unit]
        if quota.ratio is not None:
            target = quota.ratio * others  # counted from the run's start, so that roundings don't add up
        elif quota.max_samples is None and quota.max_tokens is None:
            target = quota.amount * len(self._starts)
        else:
            target = sums.upto(start) + quota.amount
        end = max(sums.nearest(target), start)
        if quota.max_samples is not None:
            end = min(end, start + quota.max_samples)
        if quota.max_tokens is not None:
            tokens = self._sums["tokens"]
            end = min(end, tokens.last(Fraction(tokens.upto(start) + quota.max_tokens)))
        self._starts.append(end)


class _Sums:
    """Running sums of sizes [n] that begin again after the last, over and over."""

    def __init__(self, sizes: np.ndarray) -> None:
        self._ends = np.cumsum(sizes)

    def upto(self, num: int) -> int:
        """Sum of the first `num`."""
        passes, rest = divmod(num, len(self._ends))
        return passes * int(self._ends[-1]) + (int(self._ends[rest - 1]) if rest else 0)

    def last(self, target: Fraction) -> int:
        """The most whose sum is at most `target`."""
        passes, rest = divmod(target, int(self._ends[-1]))
        return int(passes) * len(self._ends) + int(np.searchsorted(self._ends, int(rest), side="right"))

    def nearest(self, target: Fraction) -> int:
        """How many have the sum nearest to `target`, the fewer of two."""
        low = self.last(target)
        return low + 1 if self.upto(low + 1) - target < target - self.upto(low) else low


class Mix:
    """The epochs of a mix.

    Args:
        unit: of which the shares are.
        stage: number of the stage that it belongs to; each draws an order of its own.
        shuffle: False keeps the order of the data; the sources are then spread evenly over the epoch.
        mixed: False for sources that simply follow one another.

    Raises:
        DataError: the caps leave nothing at all.
    """

    def __init__(
        self,
        sources: Sequence[SourceSamples],
        quotas: Sequence[Quota],
        seed: int,
        *,
        unit: str = "samples",
        stage: int = 0,
        shuffle: bool = True,
        mixed: bool = True,
    ) -> None:
        self.sources = list(sources)
        self.quotas = list(quotas)
        self._spread = mixed and not shuffle
        self._drawers: List[Drawer] = []
        self._num_drawn = 0
        if self.is_static:
            return
        for index, (source, quota) in enumerate(zip(sources, quotas)):
            order = permutation(len(source.numbers), seed, _DRAW, stage, index) if shuffle else None
            self._drawers.append(Drawer(source, quota, unit, order))
        if all(drawer.gives_nothing for drawer in self._drawers):
            raise DataError("max_tokens in mixing is less than the first sample of every source has; raise it")

    @property
    def is_static(self) -> bool:
        """Whether every epoch takes the same: each sample once, or each twice."""
        return all(_whole_epochs(source, quota) for source, quota in zip(self.sources, self.quotas))

    def draw(self, epoch: int) -> np.ndarray:
        """Numbers [m] of the samples of an epoch, source by source, or spread in data order; before any shuffling.

        Where parts of very few samples are asked for, an epoch may be empty.
        """
        if self._drawers:
            self._advance(epoch)
            parts = [drawer.draw(epoch) for drawer in self._drawers]
        else:
            parts = [
                np.tile(source.numbers, _whole_epochs(source, quota))
                for source, quota in zip(self.sources, self.quotas)
            ]
        numbers = np.concatenate(parts)
        if not self._spread:
            return numbers
        places = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
        return numbers[np.argsort(places, kind="stable")]

    def num_taken(self, num_epochs: float) -> List[float]:
        """Samples that so many epochs take of each source; of a part of an epoch that part."""
        whole = int(num_epochs)
        if not self._drawers:
            return [float(quota.amount) * num_epochs for quota in self.quotas]
        self._advance(whole)
        return [drawer.num_taken(whole) + (num_epochs - whole) * len(drawer.draw(whole)) for drawer in self._drawers]

    def _advance(self, epoch: int) -> None:
        """Take epochs until `epoch` is taken. They are kept as numbers of samples, so any may be asked for again."""
        fixed = [drawer for drawer in self._drawers if drawer.quota.ratio is None]
        others = [drawer for drawer in self._drawers if drawer.quota.ratio is not None]
        while self._num_drawn <= epoch:
            for drawer in fixed:
                drawer.advance()
            for drawer in others:
                drawer.advance(sum(one.given() for one in fixed))
            self._num_drawn += 1


def _whole_epochs(source: SourceSamples, quota: Quota) -> int:
    """How often an epoch takes every sample of the source, 0 when it takes another part each time."""
    if quota.unit != "samples" or quota.max_samples is not None or quota.max_tokens is not None:
        return 0
    times = quota.amount / len(source.numbers)
    return int(times) if times.denominator == 1 else 0


def mix_table(mix: Mix, samples: SampleStore, num_epochs: float) -> List[Dict[str, float]]:
    """What the first epoch of a mix really takes of each source, and how often the run sees the source."""
    numbers = mix.draw(0)
    index_of = {name: index for index, name in enumerate(samples.source_names)}
    source = np.asarray(samples.source)[numbers]
    counts = [np.ones(len(numbers), dtype=np.int64), samples.lengths[numbers], samples.num_trained[numbers]]
    sums = [np.bincount(source, weights=values, minlength=len(index_of)) for values in counts]
    rows = []
    for one, num_taken in zip(mix.sources, mix.num_taken(num_epochs)):
        index = index_of[one.name]
        row: Dict[str, float] = {"source": one.name, "num_samples": len(one.numbers)}
        for name, values in zip(("samples", "tokens", "trained_tokens"), sums):
            row[name] = int(values[index])
            row[f"{name}_share"] = float(values[index] / max(values.sum(), 1))
        row["epochs"] = row["samples"] / len(one.numbers)
        row["epochs_of_run"] = num_taken / len(one.numbers)
        rows.append(row)
    return rows
