"""fleet's schedules of a pipeline (paddlepaddle 3.3.1): 1F1B, and with several parts of the stack on each stage the
interleaved one (Narayanan et al. 2021, https://arxiv.org/abs/2104.04473).
"""

from __future__ import annotations

from typing import Any, Callable

from paddle.distributed import fleet
from paddle.distributed.fleet.meta_parallel import PipelineLayer, PipelineParallel
from paddle.distributed.fleet.meta_parallel.pipeline_parallel import PipelineParallelWithInterleave

from paddle_sft.parallel.topology import Layout

BeforeBackward = Callable[[int], None]


class _Told:
    """Says of each backward pass, before it begins, of which of this stage's parts it is."""

    before_backward: BeforeBackward

    def _backward_step(self, *args: Any, **kwargs: Any) -> Any:
        self.before_backward(kwargs.get("chunk_id") or 0)
        return super()._backward_step(*args, **kwargs)


class OneForwardOneBackward(_Told, PipelineParallel):
    """Each stage holds one part."""


class Interleaved(_Told, PipelineParallelWithInterleave):
    """Each stage holds several parts: part p of P stages is on stage p % P.

    fleet refuses two stages, and fewer than two micro-batches a stage in a step. What is used here needs neither:

    - Of two stages the one before and the one behind are the same rank. fleet's form that sends both ways in one call
      then has what goes forward arrive for what goes back. With `overlap_p2p_comm`, which `parallel.groups` sets, a
      call sends one way, and what a stage sends to another comes in the order in which that one asks for it.
    - The groups of micro-batches that follow one another through a part are `num_stages` wide, the first one wider by
      the remainder: one whole group is enough. Two of them are for sending gradients while computing (`comm_overlap`),
      which is off.

    tests/parallel/test_virtual.py follows every message of these schedules.
    """

    def _check_sanity(self) -> None:
        """Not fleet's conditions: see above."""


def make_schedule(layout: Layout, step: Callable, loss: Callable, before_backward: BeforeBackward) -> Any:
    """The schedule of this rank, over functions in the place of layers.

    Args:
        step: (number of this stage's part, what came to it) -> what goes on.
        loss: (what the last part gave, labels) -> what gradients are taken of.
        before_backward: hears of which part the next backward pass is.
    """
    hcg = fleet.get_hybrid_communicate_group()
    parts = [_stage(step, number // layout.pipeline) for number in range(layout.pipeline * layout.chunks)]
    layers = PipelineLayer(
        layers=parts,
        topology=hcg.topology(),
        loss_fn=loss,
        seg_method="layer:stage",
        num_virtual_pipeline_stages=layout.chunks,
    )
    kind = Interleaved if layout.chunks > 1 else OneForwardOneBackward
    engine = kind(layers, hcg, fleet.fleet._user_defined_strategy)
    engine.before_backward = before_backward
    return engine


def _stage(step: Callable, part: int) -> Callable:
    """fleet cuts a list of layers by their names, such as this one's."""

    def stage(given: Any) -> Any:
        return step(part, given)

    return stage


def prepare(engine: Any, num_micro_batches: int) -> None:
    """Before each step: the engine expects as many micro-batches, of the same shapes, in every step."""
    engine.accumulate_steps = num_micro_batches
    engine._init_user_hooks()
    messages = engine._p2p_helper
    messages._send_recv_meta_list, messages._dynamic_cnt = [], 0
