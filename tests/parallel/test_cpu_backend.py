"""What gloo lacks: an alarm for each piece of the CPU back end, which turns red when Paddle has it, and the guard."""

from __future__ import annotations

import inspect
import itertools

import paddle
import pytest
from paddle import _C_ops
from paddle.base import core
from paddle.distributed import ParallelEnv
from paddle.distributed.fleet.meta_parallel.parallel_layers.pp_layers import PipelineLayer

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.parallel import cpu_backend
from paddle_sft.parallel.cpu_collectives import SUM
from tests.e2e.commands import free_port

NUMBERS = itertools.count(1000)
"""Of groups: a process may use each once."""


@pytest.fixture
def group(monkeypatch):
    """A group of one rank."""
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    return core.ProcessGroupGloo.create(core.TCPStore("127.0.0.1", free_port(), True, 1, 30), 0, 1, next(NUMBERS))


def test_the_back_end_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with pytest.raises(PaddleSFTError, match="gpu:0"):
        cpu_backend.install()


def test_operators_of_tensor_parallelism_have_no_cpu_kernel():
    """Alarm, paddlepaddle 3.3.1: when one computes, `copy_to_ranks` or `gather_columns` can go."""
    for call in (lambda x: _C_ops.c_identity(x, 0, True, True), lambda x: _C_ops.c_concat(x, 0, 1, 0, True, True)):
        with pytest.raises(RuntimeError, match="cpu kernel"):
            call(paddle.ones([2, 2]))


@pytest.mark.parametrize(
    "call",
    [
        lambda group, x: group.all_reduce_on_calc_stream(x, SUM),
        lambda group, x: group.send_on_calc_stream(x, 0),
        lambda group, x: group.broadcast_on_calc_stream(x, 0),
        lambda group, x: group.all_gather_into_tensor_on_calc_stream(x, x),
        lambda group, x: group.reduce_scatter_tensor(x, x, SUM, True),
        lambda group, x: group.reduce_scatter_tensor_on_calc_stream(x, x, SUM),
        lambda group, x: group.all_to_all_single(x, x, [], [], True),
    ],
)
def test_gloo_has_no_such_collective(group, call):
    """Alarm, paddlepaddle 3.3.1: when one works, its form in parallel/cpu_collectives.py can go."""
    with pytest.raises(NotImplementedError):
        call(group, paddle.ones([2]))


def test_groups_of_gloo_write_their_addresses_under_the_same_keys():
    """Alarm, paddlepaddle 3.3.1: when the constructor takes a prefix, `GroupStores` may go."""
    assert "prefix" not in (core.ProcessGroupGloo.create.__doc__ or "")


def test_a_rank_without_a_gpu_has_no_device_id():
    """Alarm, paddlepaddle 3.3.1: when one has, the line about `_device_id` in `install` can go."""
    assert "device_id" in inspect.getsource(PipelineLayer.__init__) and not core.is_compiled_with_cuda()
    before = vars(ParallelEnv).get("_device_id")
    assert before is None
    with pytest.raises(AttributeError, match="_device_id"):
        ParallelEnv().device_id
