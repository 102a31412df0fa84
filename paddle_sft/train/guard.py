"""No step is applied whose loss or gradient is NaN or infinite; all ranks decide the same, from the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import List, Optional, Sequence

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.core.log import get_logger, num_ranks
from paddle_sft.train.feed import Row, Step
from paddle_sft.train.gradients import global_norm
from paddle_sft.train.team import Team

NUM_PLACES = 20
"""Samples that are named when a step can't be applied."""


class StepLosses:
    """The losses of a step's micro-batches, sums over their trained tokens, of all ranks."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._own: List[Tensor] = []
        self.anyone_asked = False
        """Whether a rank was asked to stop, as all of them know after `of_all_ranks`."""

    def add(self, loss: Tensor) -> None:
        """The next micro-batch of this rank."""
        self._own.append(loss.detach().astype("float64").reshape([]))

    def add_nothing(self) -> None:
        """A micro-batch without samples."""
        self._own.append(paddle.zeros([], dtype="float64"))

    def of_all_ranks(self, is_asked: bool = False) -> np.ndarray:
        """[data ranks, micro-batches] float64: one message, in which every rank fills its own row.

        Args:
            is_asked: whether this rank was asked to stop; it travels in a row of its own, so that it costs no message.
        """
        own, team = paddle.stack(self._own), self._team
        if team.groups is None:
            self.anyone_asked = is_asked
            return own.numpy()[None]
        table = paddle.zeros([team.num_data + 1, len(self._own)], dtype="float64")
        if team.reports_loss:
            table[team.data_rank] = own
        table[-1] = float(is_asked)
        paddle.distributed.all_reduce(table)
        self.anyone_asked = bool(table[-1, 0] > 0)
        return table.numpy()[:-1]


@dataclass(frozen=True)
class Fault:
    """Why a step can't be applied."""

    what: str
    places: List[str]
    """Of the samples that are to blame, as far as that is known."""

    def __str__(self) -> str:
        found, more = self.places[:NUM_PLACES], ", ..." if len(self.places) > NUM_PLACES else ""
        return f"the {self.what}; the step was not applied. Its samples: {', '.join(found)}{more}."


class StepGuard:
    """Looks at a step before it is applied.

    Args:
        policy: stop or skip (nonfinite_step).
        limit: steps in a row that may be skipped (max_nonfinite_steps).
    """

    def __init__(self, policy: str, limit: int, team: Team) -> None:
        self._policy = policy
        self._limit = limit
        self._team = team
        self.norm = 0.0
        """Of the gradients of the last step that `fault_of_gradient` looked at."""

    def fault_of_loss(self, step: int, data: Step, losses: np.ndarray) -> Optional[Fault]:
        """What is wrong with the losses [ranks, micro-batches] of a step (from 0), and whose they are."""
        total = float(losses.sum())
        if math.isfinite(total):
            return None
        wrong = ~np.isfinite(losses)
        ranks = np.flatnonzero(wrong.any(axis=1)).tolist()
        rows = [row for one in ranks for row in _chosen(data.micro_batches(one), wrong[one])]
        return Fault(f"loss of step {step + 1} is {total}{_on(ranks)}", _places(rows, data))

    def fault_of_gradient(self, step: int, data: Step, parameters: Sequence[Tensor], loss: float) -> Optional[Fault]:
        """Add up the gradients of all ranks; what is wrong with them, and whose they are."""
        ranks: List[int] = []
        team = self._team
        if team.groups is not None:
            wrong = paddle.zeros([team.num_data], dtype="int32")
            wrong[team.data_rank] = int(not math.isfinite(global_norm(parameters)))
            paddle.distributed.all_reduce(wrong)
            ranks = np.flatnonzero(wrong.numpy()).tolist()
            team.sum_gradients(parameters)
        norm = self.norm = team.norm(parameters)
        if math.isfinite(norm):
            return None
        rows = [row for one in ranks for batch in data.micro_batches(one) for row in batch]
        what = f"gradient of step {step + 1} has norm {norm}{_on(ranks)}, its loss is {loss}"
        return Fault(what, _places(rows, data))

    def skip(self, fault: Fault, in_a_row: int) -> None:
        """Say that a step is not applied: the last of `in_a_row` steps.

        Raises:
            PaddleSFTError: the run is to stop, or these are too many.
        """
        if self._policy == "stop":
            raise PaddleSFTError(f"{fault} Lower learning_rate, or look at these samples")
        if in_a_row > self._limit:
            raise PaddleSFTError(
                f"{fault} These are {in_a_row} steps in a row that can't be applied, and max_nonfinite_steps is "
                f"{self._limit}: the weights themselves may have run away. Go back to an earlier checkpoint with a "
                "lower learning_rate, or look at these samples"
            )
        get_logger().warning("%s Going on with the next step (nonfinite_step skip)", fault)


def _chosen(batches: Sequence[List[Row]], which: np.ndarray) -> List[Row]:
    return [row for number, rows in enumerate(batches) if which[number] for row in rows]


def _places(rows: Sequence[Row], data: Step) -> List[str]:
    """Of the samples of these rows; of the whole step, where nobody is to blame alone."""
    found = (sample.place for row in rows for sample in row) if rows else data.places()
    return list(islice(found, NUM_PLACES + 1))


def _on(ranks: Sequence[int]) -> str:
    return f" on rank {', '.join(map(str, ranks))}" if ranks and num_ranks() > 1 else ""
