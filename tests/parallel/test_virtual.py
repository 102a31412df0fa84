"""fleet's interleaved schedule, message by message, where it refuses itself: two stages, few micro-batches.

Each stage is a thread. What one sends to another waits in one line, whether it goes forward or back, as NCCL would have
it; and a send may wait for its receiver.
"""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace

import pytest
from paddle import nn
from paddle.distributed.fleet.meta_parallel.pipeline_parallel import PipelineParallelWithInterleave

from paddle_sft.core.errors import ArgumentError
from paddle_sft.parallel.interleave import bubble, order_of_parts, parts_in_flight
from paddle_sft.parallel.topology import Layout, Sizes, range_words, require_fitting
from paddle_sft.train.schedules import Interleaved

SECONDS = 10
SHAPES = [
    (stages, parts, micro_batches)
    for stages, parts in ((2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (4, 2), (5, 3))
    for micro_batches in sorted({stages, 2 * stages - 1, 3 * stages + 1})
]


class Line:
    """What one stage sends to another, in order; a send returns when it was taken."""

    def __init__(self):
        self._line = queue.Queue()

    def put(self, message):
        taken = threading.Event()
        self._line.put((message, taken))
        assert taken.wait(SECONDS), f"nobody takes {message}"

    def get(self):
        message, taken = self._line.get(timeout=SECONDS)
        taken.set()
        return message


class Messages:
    """fleet's helper of one stage, its calls in the order of `_p2p_ops`: even stages send first, odd ones receive."""

    def __init__(self, stage, lines):
        self._stage, self._num = stage, len(lines)
        self._before, self._behind = (stage - 1) % self._num, (stage + 1) % self._num
        self._lines = lines

    def _exchange(self, message, to, wants, source):
        def send():
            if message is not None:
                self._lines[self._stage][to].put(message)

        def receive():
            return self._lines[source][self._stage].get() if wants else None

        if self._stage % 2:
            found = receive()
            send()
            return found
        send()
        return receive()

    def recv_forward(self, is_first, **_):
        return self._exchange(None, 0, not is_first, self._before)

    def recv_backward(self, is_last, **_):
        return self._exchange(None, 0, not is_last, self._behind)

    def send_forward_recv_forward(self, message, recv_prev, overlap_p2p_comm=False, **_):
        found = self._exchange(message, self._behind, recv_prev, self._before)
        return (found, None) if overlap_p2p_comm else found

    def send_backward_recv_backward(self, message, recv_next, overlap_p2p_comm=False, **_):
        found = self._exchange(message, self._before, recv_next, self._behind)
        return (found, None) if overlap_p2p_comm else found


class Followed(Interleaved):
    """One stage whose passes compute nothing: each looks whether what came is what should have come."""

    def __init__(self, layout, stage, micro_batches, lines):
        nn.Layer.__init__(self)
        self.layout, self.done, self.most, self.flying = layout, [], 0, 0
        self.counts = {"f": [0] * layout.chunks, "b": [0] * layout.chunks}
        self.num_stages, self.stage_id = layout.pipeline, stage
        self.num_model_chunks = self._virtual_pp_world_size = layout.chunks
        self._real_pp_rank, self._real_pp_world_size, self._virtual_pp_rank = stage, layout.pipeline, 0
        self.accumulate_steps, self.processed_steps, self.hooks = micro_batches, 100, None
        self._strategy = SimpleNamespace(
            hybrid_configs={"pp_configs": SimpleNamespace(forward_backward_overlap_scheduler=False)}
        )
        self._layers = SimpleNamespace(allreduce_shared_weight_gradients=lambda: None)
        self._p2p_helper = Messages(stage, lines)
        self._using_cache = self._compute_loss = self._overlap_p2p_comm = True
        self._use_batch_p2p_comm = self._best_unbalanced_scheduler = self._comm_overlap = False
        self._profiling = self._enable_timer = self._clear_every_step_cache = self._dynamic_shape = False
        self._init_user_hooks()

    def _broadcast_final_loss(self, *_):
        return None

    def _next(self, kind, part):
        number = self.counts[kind][part]
        self.counts[kind][part] += 1
        self.done.append((kind, part))
        self.flying += 1 if kind == "f" else -1
        self.most = max(self.most, self.flying)
        return part * self.num_stages + self.stage_id, number

    def _forward_step(self, given, _, part, **__):
        place, number = self._next("f", part)
        self.forward_hooks.run_hook()
        assert given == (f"f {place - 1} {number}" if place else None)
        return f"f {place} {number}", None, None

    def _backward_step(self, given, output, gradient, chunk_id, **_):
        place, number = self._next("b", chunk_id)
        self.backward_hooks.run_hook()
        is_last = place == self.num_stages * self.num_model_chunks - 1
        assert output == f"f {place} {number}"
        assert gradient == (None if is_last else f"b {place + 1} {number}")
        return f"b {place} {number}" if place else None


def follow(layout, micro_batches):
    """The stages after a step. Raises what one of them raised."""
    stages = range(layout.pipeline)
    lines = [[Line() for _ in stages] for _ in stages]
    engines = [Followed(layout, stage, micro_batches, lines) for stage in stages]
    failures = []

    def work(engine):
        try:
            engine.forward_backward_pipeline(iter(()), None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(engine,), daemon=True) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    if failures:
        raise failures[0]
    return engines


@pytest.mark.parametrize("stages, parts, micro_batches", SHAPES)
def test_every_message_arrives_where_and_when_it_is_asked_for(stages, parts, micro_batches):
    layout = Layout(pipeline=stages, chunks=parts)
    order = order_of_parts(layout, micro_batches)
    assert sorted(order) == sorted(list(range(parts)) * micro_batches)
    for stage, engine in enumerate(follow(layout, micro_batches)):
        assert [part for kind, part in engine.done if kind == "f"] == order
        assert [part for kind, part in engine.done if kind == "b"] == [parts - 1 - part for part in order]
        assert engine.most == parts_in_flight(layout, stage, micro_batches)


def test_fleet_still_refuses_what_is_used_here():
    """An alarm: if fleet takes two stages or few micro-batches, `Interleaved` needs no check of its own."""
    for stages, micro_batches in ((2, 8), (3, 5)):
        with pytest.raises(AssertionError):
            PipelineParallelWithInterleave._check_sanity(
                SimpleNamespace(num_stages=stages, accumulate_steps=micro_batches)
            )


def test_more_parts_leave_less_waiting():
    assert bubble(Layout(pipeline=4), 8) == 3 / 11
    assert bubble(Layout(pipeline=4, chunks=2), 8) == 3 / 19


def test_parts_that_the_model_has_no_layers_for_are_refused_with_fewer_that_fit():
    sizes = Sizes(layers=6, heads=8, groups=2, vocabulary=96, inner=48)
    require_fitting(Layout(pipeline=2, chunks=3), sizes)
    with pytest.raises(ArgumentError, match="virtual_pp_degree 4 needs 8 layers.*virtual_pp_degree 3 .2 pipeline .3 v"):
        require_fitting(Layout(pipeline=2, chunks=4), sizes)


def test_layers_of_a_stage_are_named():
    assert range_words([(0, 2), (4, 5)]) == "0-1, 4"
