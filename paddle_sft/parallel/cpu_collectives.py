"""Collectives that gloo's process groups lack, made of those they have. float32 sums, any type for what only moves."""

from __future__ import annotations

from typing import Any, List, Sequence

import paddle
from paddle import Tensor
from paddle.base import core

SUM = core.ReduceOp.SUM


class Done:
    """A task that is finished: gloo computes in the call."""

    def wait(self, *_: Any) -> bool:
        return True

    is_completed = synchronize = wait


def install(group: type) -> None:
    """Give the class of gloo's process groups what it lacks."""
    group.all_reduce_on_calc_stream = all_reduce_now
    group.broadcast_on_calc_stream = lambda self, tensor, source: self.broadcast(tensor, source, True)
    group.all_gather_into_tensor_on_calc_stream = lambda self, out, tensor: self.all_gather_into_tensor(
        out, tensor, True
    )
    group.reduce_scatter_tensor = reduce_scatter
    group.reduce_scatter_tensor_on_calc_stream = reduce_scatter
    group.all_to_all_single = exchange_parts


def all_reduce_now(group: Any, tensor: Tensor, operation: Any = SUM) -> Any:
    """Reduce in place and wait. A CPU has no streams, and gloo lacks the form that names one."""
    task = group.all_reduce(tensor, operation, True)
    task.wait()
    return task


def gather_all(group: Any, tensor: Tensor) -> Tensor:
    """[...] of each rank -> [ranks, ...] on all."""
    parts = paddle.empty([group.size(), *tensor.shape], dtype=tensor.dtype)
    group.all_gather_into_tensor(parts, tensor.detach().contiguous(), True).wait()
    return parts


def reduce_scatter(group: Any, out: Tensor, tensor: Tensor, operation: Any = SUM, sync_op: bool = True) -> Done:
    """[ranks * n, ...] of each -> each rank's [n, ...] of the sum, in `out`."""
    with paddle.no_grad():
        total = tensor.detach().clone()
        group.all_reduce(total, operation, True).wait()
        paddle.assign(paddle.split(total, group.size(), axis=0)[group.rank()], out)
    return Done()


def exchange_parts(
    group: Any, out: Tensor, tensor: Tensor, out_sizes: Any = (), sizes: Any = (), sync_op: bool = True
) -> Done:
    """Rank i's part j of [ranks * n, ...] becomes rank j's part i, in `out`. Parts of one size only."""
    with paddle.no_grad():
        sent: Sequence[Tensor] = gather_all(group, tensor).unbind(0)
        mine: List[Tensor] = [paddle.split(one, group.size(), axis=0)[group.rank()] for one in sent]
        paddle.assign(paddle.concat(mine, axis=0), out)
    return Done()
