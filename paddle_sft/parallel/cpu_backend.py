"""What Paddle's gloo back end lacks for tensor and pipeline parallelism of two ranks on CPU processes, piece by piece.

Each piece was needed for paddlepaddle 3.3.1; tests/parallel/test_families.py has an alarm for each. float32 only: the
numbers go through numpy between pipeline stages.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer
from paddle.base import core
from paddle.distributed import ParallelEnv, collective
from paddle.distributed.fleet.meta_parallel.pp_utils import p2p_communication

from paddle_sft.core.errors import PaddleSFTError


def install() -> None:
    """Put every piece in its place, once a process, before `fleet.init`.

    Raises:
        PaddleSFTError: a Paddle that computes on a GPU or another device: there the real operators do the work.
    """
    if paddle.get_device() != "cpu":
        raise PaddleSFTError(
            f"the CPU back end was asked for on {paddle.get_device()}; it is for ranks without a GPU: set device to cpu"
        )
    core.ProcessGroupGloo.all_reduce_on_calc_stream = all_reduce_now
    _C_ops.c_identity = copy_to_ranks
    _C_ops.c_concat = gather_columns
    ParallelEnv._device_id = 0  # PipelineLayer asks for it; no rank of gloo has one
    p2p_communication.batch_send_recv_on_calc_stream = StageExchange()


def all_reduce_now(group: Any, tensor: Tensor, op: Any = core.ReduceOp.SUM) -> Any:
    """Reduce in place and wait. A CPU has no streams, and gloo lacks the form that names one."""
    task = group.all_reduce(tensor, op, True)
    task.wait()
    return task


def copy_to_ranks(tensor: Tensor, ring_id: int, *_: Any) -> Tensor:
    """The operator c_identity, whose CPU kernel only throws. Its gradient is Paddle's c_identity_eager."""
    return tensor.clone()


def gather_columns(tensor: Tensor, rank: int, num_ranks: int, ring_id: int, *_: Any) -> Tensor:
    """The operator c_concat, whose CPU kernel only throws: [..., C] of each rank -> [..., num_ranks * C] on all."""
    return _GatherColumns.apply(tensor, rank, num_ranks, ring_id)


class _GatherColumns(PyLayer):
    """Every rank goes on with the same numbers, so the gradient of its part is its part of the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, num_ranks: int, ring_id: int) -> Tensor:
        ctx.part = rank, num_ranks
        parts = paddle.empty([num_ranks, *tensor.shape], dtype=tensor.dtype)
        group = collective._get_group_map()[ring_id].process_group
        group.all_gather_into_tensor(parts, tensor.contiguous(), True).wait()
        return paddle.concat(list(parts.unbind(0)), axis=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rank, num_ranks = ctx.part
        return paddle.split(gradient, num_ranks, axis=-1)[rank].clone()


class StageExchange:
    """Sends and receives of pipeline stages, through the job's key-value store.

    A send of gloo waits for its receiver, so two stages that send to each other wait forever; a send to the store
    doesn't wait. Each message has a number of its own among those from one rank to another in a group.
    """

    def __init__(self) -> None:
        self._counts: Dict[Tuple[int, int, int], int] = {}

    def __call__(self, operations: List[Any]) -> None:
        """All sends of the list, then all its receives."""
        send = p2p_communication._send_on_calc_stream
        for operation in sorted(operations, key=lambda operation: operation.op is not send):
            mine, other = paddle.distributed.get_rank(), operation.peer
            if operation.op is send:
                numbers = np.ascontiguousarray(operation.tensor.detach().numpy())
                collective._default_store.set(self._key(operation.group.id, mine, other), numbers.tobytes())
            else:
                self._receive(self._key(operation.group.id, other, mine), operation.tensor)

    def _receive(self, key: str, tensor: Tensor) -> None:
        content = bytes(collective._default_store.get(key))
        collective._default_store.set(key, b"0")  # the store keeps keys: leave nothing large behind
        numbers = np.frombuffer(content, dtype=tensor.numpy().dtype).reshape(tensor.shape)
        with paddle.no_grad():
            paddle.assign(paddle.to_tensor(numbers), tensor)

    def _key(self, group: int, sender: int, receiver: int) -> str:
        count = self._counts[group, sender, receiver] = self._counts.get((group, sender, receiver), 0) + 1
        return f"stage/{group}/{sender}/{receiver}/{count}"
