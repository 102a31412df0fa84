"""The forward and backward passes of a step on one rank, whatever share of rows, tokens and layers it has."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.core.records import Sample
from paddle_sft.data.collate import Batch, collate, collate_rows
from paddle_sft.data.pose import SkippedPositions
from paddle_sft.train.feed import Step
from paddle_sft.train.guard import StepLosses
from paddle_sft.train.pipeline import Pipeline
from paddle_sft.train.plan import random_seed
from paddle_sft.train.slices import part_of_rows, widen
from paddle_sft.train.team import Team


class Passes:
    """Computes the micro-batches of this rank.

    Args:
        fill: the token that fills short rows.
        seed: dropout and noise are drawn from it.
    """

    def __init__(
        self, model: Any, stage: Any, team: Team, fill: int, pose: Optional[SkippedPositions], seed: int
    ) -> None:
        self._model = model
        self._stage = stage
        self._team = team
        self._fill = fill
        self._pose = pose
        self._seed = seed
        self._pipeline = Pipeline(model, team.groups) if team.layout.pipeline > 1 else None

    def train(
        self, step: int, data: Step, autocast: Callable[[], Any], backward: Callable[[Tensor], Any]
    ) -> StepLosses:
        """Gradients of sum(loss) / num_trained; returns the sums of the losses.

        Args:
            autocast: makes the context of a forward pass.
            backward: takes the loss of a micro-batch, already divided.
        """
        losses = StepLosses(self._team)
        rows_of = data.micro_batches(self._team.data_rank)
        if self._pipeline is not None:
            with autocast():
                return self._through_pipeline(step, data, rows_of, losses)
        for number, rows in enumerate(rows_of):
            if not rows and not self._team.is_in_step:
                losses.add_nothing()
                continue
            paddle.seed(random_seed(self._seed, step, number, self._team.seed_rank))
            with self._team.micro_batch():
                with autocast():
                    loss = self._stage.loss(self._model, self._batch(rows, step) if rows else self._nothing())
                backward(loss / data.num_trained)
            losses.add(loss)
        return losses

    def _nothing(self) -> Batch:
        """A row that trains nothing, for a rank whose passes others wait for."""
        return collate([Sample(np.full(1, self._fill, np.int32), np.zeros(1, bool), "")], self._fill)

    def _through_pipeline(self, step: int, data: Step, rows_of: List[Any], losses: StepLosses) -> StepLosses:
        numbers = [number for number, rows in enumerate(rows_of) if rows]
        batches = [self._batch(rows_of[number], step) for number in numbers]
        while 0 < len(batches) < self._pipeline.fewest:  # at the end of an epoch
            numbers.append(len(rows_of) + len(batches))
            batches.append(self.fit(self._nothing()))
        of_parts = self._team.seed_ranks
        seeds = [[random_seed(self._seed, step, number, part) for part in of_parts] for number in numbers]
        found = iter(self._pipeline.train(batches, seeds, data.num_trained))
        for rows in rows_of:
            loss = next(found, None) if rows else None
            losses.add_nothing() if loss is None else losses.add(loss)
        return losses

    def outputs(self, batch: Batch) -> Optional[Tensor]:
        """What the stage's meter reads of a fitted batch, without gradients; None on a rank that doesn't get there."""
        if self._pipeline is not None:
            return self._pipeline.hidden_states(batch)
        return self._stage.outputs(self._model, batch)

    def fit(self, batch: Batch) -> Batch:
        """This rank's tokens of a batch."""
        layout = self._team.layout
        batch = widen(batch, layout.sep * (layout.tensor if layout.sequence_parallel else 1), self._fill)
        return part_of_rows(batch, self._team.sep_rank, layout.sep) if layout.sep > 1 else batch

    def _batch(self, rows: Any, step: int) -> Batch:
        batch = collate_rows(rows, self._fill)
        return self.fit(batch if self._pose is None else self._pose.place(batch, step))
