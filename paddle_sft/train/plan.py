"""Which samples every optimizer step sees: a function of the seed and the step alone, so resuming needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import List

import numpy as np


@dataclass(frozen=True)
class StepPlan:
    """Cuts a data set into epochs, optimizer steps, micro-batches and ranks.

    A step holds the same samples for any number of ranks as long as rows * accumulation * ranks stays the same. The
    last step of an epoch is shorter rather than dropped or filled with samples of the next epoch.
    """

    num_samples: int
    rows: int
    """Samples of one forward pass on one rank (per_device_train_batch_size)."""
    accumulation: int
    ranks: int
    num_epochs: float
    max_steps: int
    seed: int
    shuffle: bool = True
    drop_last: bool = False

    @property
    def rows_per_step(self) -> int:
        """The effective batch size."""
        return self.rows * self.accumulation * self.ranks

    @property
    def steps_per_epoch(self) -> int:
        whole = self.num_samples // self.rows_per_step
        if self.drop_last:
            return max(1, whole)
        return whole + (self.num_samples % self.rows_per_step > 0)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run; max_steps wins over the number of epochs."""
        return self.max_steps if self.max_steps > 0 else math.ceil(self.num_epochs * self.steps_per_epoch)

    def indices(self, step: int) -> np.ndarray:
        """Samples of optimizer step `step` (from 0), over all ranks, in order."""
        epoch, within = divmod(step, self.steps_per_epoch)
        begin = within * self.rows_per_step
        return self._order(epoch)[begin : begin + self.rows_per_step]

    def micro_batches(self, step: int, rank: int) -> List[np.ndarray]:
        """The forward passes of one rank in one step. At the end of an epoch some may be shorter or empty."""
        indices = self.indices(step)
        width = self.rows * self.ranks
        chunks = [indices[begin : begin + width] for begin in range(0, len(indices), width)]
        return [np.array_split(chunk, self.ranks)[rank] for chunk in chunks]

    def _order(self, epoch: int) -> np.ndarray:
        return _shuffled(self.num_samples, self.seed, epoch) if self.shuffle else np.arange(self.num_samples)


@lru_cache(maxsize=2)
def _shuffled(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, kept: every step of it asks twice, and drawing it is O(num_samples)."""
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    order.flags.writeable = False  # shared by all who ask
    return order


def random_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """The seed of dropout and noise in one forward pass.

    Paddle's CPU generator does not give its position away, so each pass starts from a seed of its own: a resumed run
    draws what an uninterrupted one would have drawn.
    """
    return int(np.random.SeedSequence([seed, step, micro_batch, rank]).generate_state(1, np.uint32)[0])
