"""How rows become optimizer steps, micro-batches and ranks, and in which order: functions of seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import List

import numpy as np


@dataclass(frozen=True)
class StepShape:
    """Cuts the rows of an epoch into optimizer steps.

    A step holds the same rows for any number of ranks as long as rows * accumulation * ranks stays the same. The last
    step of an epoch is shorter rather than dropped or filled with rows of the next epoch.
    """

    rows: int
    """Rows of one forward pass on one rank (per_device_train_batch_size)."""
    accumulation: int
    ranks: int
    drop_last: bool = False

    @property
    def rows_per_step(self) -> int:
        """The effective batch size."""
        return self.rows * self.accumulation * self.ranks

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps of an epoch of so many rows."""
        whole = num_rows // self.rows_per_step
        if self.drop_last:
            return max(1, whole)
        return whole + (num_rows % self.rows_per_step > 0)

    def of_step(self, step: int) -> slice:
        """The places of the rows of the epoch's step `step` (from 0), over all ranks."""
        return slice(step * self.rows_per_step, (step + 1) * self.rows_per_step)

    def micro_batches(self, num_rows: int, rank: int) -> List[np.ndarray]:
        """Places, within a step of `num_rows`, of the rows of each forward pass of one rank.

        At the end of an epoch some may be shorter or empty.
        """
        width = self.rows * self.ranks
        chunks = [np.arange(begin, min(begin + width, num_rows)) for begin in range(0, num_rows, width)]
        return [np.array_split(chunk, self.ranks)[rank] for chunk in chunks]


@lru_cache(maxsize=2)
def row_order(num_rows: int, seed: int, stage: int, epoch: int) -> np.ndarray:
    """The shuffled order of an epoch's rows, kept: every step of it asks, and drawing it is O(num_rows)."""
    order = np.random.default_rng([seed, epoch, stage] if stage else [seed, epoch]).permutation(num_rows)
    order.flags.writeable = False  # shared by all who ask
    return order


def random_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """The seed of dropout and noise in one forward pass.

    Paddle's CPU generator does not give its position away, so each pass starts from a seed of its own: a resumed run
    draws what an uninterrupted one would have drawn.
    """
    return int(np.random.SeedSequence([seed, step, micro_batch, rank]).generate_state(1, np.uint32)[0])
