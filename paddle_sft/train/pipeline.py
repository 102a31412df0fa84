"""A step through a pipeline: fleet's schedule over the layers that this stage holds.

Each micro-batch's loss is divided by the trained tokens of the whole step before its gradient is taken, so
micro-batches may differ in rows, in length and in number, and the sum of their gradients is that of the step.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Optional, Sequence, Tuple

import paddle
from paddle import Tensor

from paddle_sft.data.collate import Batch
from paddle_sft.losses.head import head_loss_sum
from paddle_sft.models.head import find_head
from paddle_sft.models.passes import embed, finish, run_layers
from paddle_sft.parallel.groups import Groups
from paddle_sft.parallel.interleave import fewest_micro_batches
from paddle_sft.train.schedules import make_schedule, prepare


class Pipeline:
    """The passes of one stage.

    Args:
        model: of which this stage holds its share.
    """

    def __init__(self, model: Any, groups: Groups) -> None:
        self._model = model
        self._ranges = model.share.ranges
        self._batches: List[Batch] = []
        self._seeds: List[Sequence[int]] = []
        self._num_trained = 1
        self._current = -1
        self._forward: List[int] = []
        self._backward: List[int] = []
        self._losses: List[Tensor] = []
        self._engine = make_schedule(groups.layout, self._run_part, self._loss, self._return_to)
        self.fewest = fewest_micro_batches(groups.layout)
        """Micro-batches that a step must have."""

    def train(self, batches: Sequence[Batch], seeds: Sequence[Sequence[int]], num_trained: int) -> List[Tensor]:
        """Gradients of sum(loss) / num_trained over micro-batches; returns each one's sum, on the last stage only.

        Args:
            seeds: of each micro-batch those of this stage's parts, for dropout.
        """
        self._begin(batches, seeds, num_trained)
        if batches:
            self._engine._compute_loss = True
            self._engine.forward_backward_pipeline(self._data(), None)
        return self._losses

    def hidden_states(self, batch: Batch) -> Optional[Tensor]:
        """[B, T, H] of one batch without gradients, on the last stage; None on the others."""
        share, last = self._model.share, len(self._ranges) - 1
        messages, is_batched = self._engine._p2p_helper, self._engine._use_batch_p2p_comm
        self._begin([batch], [[0] * len(self._ranges)], 1)
        hidden = paddle.to_tensor(batch.input_ids)
        for part in range(last + 1):
            if not (share.is_first and part == 0):
                hidden = messages.recv_forward(False, batch_p2p_comm=is_batched)
            hidden = self._run_part(part, hidden)
            if not (share.is_last and part == last):
                messages.send_forward(hidden, False, batch_p2p_comm=is_batched)
        return hidden if share.is_last else None

    def _begin(self, batches: Sequence[Batch], seeds: Sequence[Sequence[int]], num_trained: int) -> None:
        self._batches, self._seeds, self._num_trained = list(batches), list(seeds), num_trained
        self._current, self._losses = -1, []
        self._forward, self._backward = [-1] * len(self._ranges), [-1] * len(self._ranges)
        prepare(self._engine, len(batches))

    def _data(self) -> Iterator[Tuple[Tensor, Tensor]]:
        """(input, labels) of each micro-batch; fleet asks the first stage for the one, the last for the other."""
        for batch in self._batches:
            yield paddle.to_tensor(batch.input_ids), paddle.to_tensor(batch.labels)

    def _run_part(self, part: int, given: Tensor) -> Tensor:
        """Ids in the first part of the model, hidden states in the others -> hidden states."""
        share = self._model.share
        self._forward[part] += 1
        number = self._forward[part]
        self._enter(number)
        paddle.seed(self._seeds[number][part])
        hidden = given
        if share.is_first and part == 0:
            hidden = embed(self._model, given)
            hidden.stop_gradient = not paddle.is_grad_enabled()  # the stage behind sends a gradient back in any case
        hidden = run_layers(self._model, hidden, self._ranges[part])
        if share.is_last and part == len(self._ranges) - 1:
            hidden = finish(self._model, hidden, self._batches[number].input_ids.shape)
        return hidden

    def _return_to(self, part: int) -> None:
        """A backward pass begins, in which layers may be computed once more (recompute)."""
        self._backward[part] += 1
        self._enter(self._backward[part])

    def _enter(self, number: int) -> None:
        """Let attention see the rows of a micro-batch."""
        if number != self._current:
            batch = self._batches[number]
            self._model.row_layout.set(batch.segment_lengths, batch.positions, batch.prompt_lengths)
            self._current = number

    def _loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        loss = head_loss_sum(hidden, labels, find_head(self._model))
        self._losses.append(loss.detach())
        return loss / self._num_trained
