"""A step through a pipeline: fleet's schedule over the layers that this stage holds.

Each micro-batch's loss is divided by the trained tokens of the whole step before its gradient is taken, so
micro-batches may differ in rows, in length and in number, and the sum of their gradients is that of the step.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import paddle
from paddle import Tensor

from paddle_sft.data.collate import Batch
from paddle_sft.losses.head import head_loss_sum
from paddle_sft.models.head import find_head
from paddle_sft.models.passes import embed, finish, run_layers
from paddle_sft.parallel.groups import Groups


class Pipeline:
    """The schedule of one stage.

    Args:
        model: of which this stage holds its share.
    """

    def __init__(self, model: Any, groups: Groups) -> None:
        from paddle.distributed import fleet
        from paddle.distributed.fleet.meta_parallel import PipelineLayer, PipelineParallel

        self._model = model
        self._ranges = model.share.ranges
        self._batches: List[Batch] = []
        self._seeds: List[int] = []
        self._num_trained = 1
        self._current = -1
        self._counts: Dict[int, int] = {}
        self._losses: List[Tensor] = []
        layout = groups.layout
        hcg = fleet.get_hybrid_communicate_group()
        steps = [self._stage_step] * layout.pipeline
        layers = PipelineLayer(layers=steps, topology=hcg.topology(), loss_fn=self._loss, seg_method="uniform")
        self._engine = PipelineParallel(layers, hcg, fleet.fleet._user_defined_strategy)

    def train(self, batches: Sequence[Batch], seeds: Sequence[int], num_trained: int) -> List[Tensor]:
        """Gradients of sum(loss) / num_trained over micro-batches; returns each one's sum, on the last stage only."""
        self._begin(batches, seeds, num_trained)
        if batches:
            self._engine._compute_loss = True
            self._engine.forward_backward_pipeline(self._data())
        return self._losses

    def hidden_states(self, batch: Batch) -> Optional[Tensor]:
        """[B, T, H] of one batch without gradients, on the last stage; None on the others."""
        self._begin([batch], [0], 1)
        found = self._engine.eval_batch(self._data(), compute_loss=False)
        return found[0] if self._model.share.is_last else None

    def _begin(self, batches: Sequence[Batch], seeds: Sequence[int], num_trained: int) -> None:
        self._batches, self._seeds, self._num_trained = list(batches), list(seeds), num_trained
        self._current, self._counts, self._losses = -1, {}, []
        # the engine expects as many micro-batches, of the same shapes, in every step (paddlepaddle 3.3.1)
        self._engine.accumulate_steps = len(batches)
        self._engine._init_user_hooks()
        messages = self._engine._p2p_helper
        messages._send_recv_meta_list, messages._dynamic_cnt = [], 0

    def _data(self) -> Iterator[Tuple[Tensor, Tensor]]:
        """(input, labels) of each micro-batch; fleet asks the first stage for the one, the last for the other."""
        for batch in self._batches:
            yield paddle.to_tensor(batch.input_ids), paddle.to_tensor(batch.labels)

    def _stage_step(self, given: Tensor) -> Tensor:
        """Ids on the first stage, hidden states on the others -> hidden states."""
        number = self._counts[0] = self._counts.get(0, -1) + 1
        self._enter(number)
        paddle.seed(self._seeds[number])
        hidden = given
        if self._model.share.is_first:
            hidden = embed(self._model, given)
            hidden.stop_gradient = not paddle.is_grad_enabled()  # the stage behind sends a gradient back in any case
        for first_and_last in self._ranges:
            hidden = run_layers(self._model, hidden, first_and_last)
        if self._model.share.is_last:
            hidden = finish(self._model, hidden, self._batches[number].input_ids.shape)
        return hidden

    def _enter(self, number: int) -> None:
        """Let attention see the rows of a micro-batch."""
        if number != self._current:
            batch = self._batches[number]
            self._model.row_layout.set(batch.segment_lengths, batch.positions)
            self._current = number

    def _loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        loss = head_loss_sum(hidden, labels, find_head(self._model))
        self._losses.append(loss.detach())
        return loss / self._num_trained
