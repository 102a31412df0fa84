"""The cross entropy of a head whose vocabulary is split over ranks: rank i has the i-th part of the tokens.

What travels is three numbers a position: the largest score, the sum of exponentials, the label's score.
"""

from __future__ import annotations

from typing import Any, Tuple

import paddle
import paddle.distributed as dist
from paddle import Tensor


def split_loss_and_gradient(scores: Tensor, targets: Tensor, group: Any) -> Tuple[Tensor, Tensor]:
    """(sum of -log p(target), the same on all ranks; its gradient by this rank's scores).

    With s the scores and z the sum of exp(s): loss = log z - s[target], gradient = exp(s) / z - [target].

    Shapes: scores [N, V / ranks] float32, targets [N] int64 in 0 .. V - 1 -> [], [N, V / ranks].
    """
    exponents, total, chosen, place, is_here = _parts(scores, targets, group)
    loss = (paddle.log(total) - chosen).sum()
    gradient = exponents / total
    hits = is_here.astype(gradient.dtype)
    return loss, paddle.put_along_axis(gradient, place, -hits, axis=1, reduce="add")


def split_statistics(scores: Tensor, targets: Tensor, group: Any) -> Tuple[float, int]:
    """(sum of -log p(target), positions whose most likely token is the target; of equal ones the first counts)."""
    _, total, chosen, _, _ = _parts(scores, targets, group)
    largest = scores.max(axis=-1)
    of_all = largest.clone()
    dist.all_reduce(of_all, op=dist.ReduceOp.MAX, group=group)
    width = scores.shape[1]
    first = scores.argmax(axis=-1) + group.rank * width
    first = paddle.where(largest == of_all, first, paddle.full_like(first, width * group.nranks))
    dist.all_reduce(first, op=dist.ReduceOp.MIN, group=group)
    return float((paddle.log(total) - chosen).sum()), int((first == targets).sum())


def _parts(scores: Tensor, targets: Tensor, group: Any) -> Tuple[Tensor, ...]:
    """exp(s - max) [N, V / ranks], its sum over all ranks [N, 1], s[target] - max [N, 1], where the target stands here
    [N, 1] and whether it does."""
    largest = scores.max(axis=-1, keepdim=True)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    shifted = scores - largest
    exponents = paddle.exp(shifted)
    total = exponents.sum(axis=-1, keepdim=True)
    dist.all_reduce(total, group=group)
    place = (targets - group.rank * scores.shape[1]).unsqueeze(-1)
    is_here = paddle.logical_and(place >= 0, place < scores.shape[1])
    place = paddle.where(is_here, place, paddle.zeros_like(place))
    chosen = paddle.take_along_axis(shifted, place, axis=1) * is_here.astype(shifted.dtype)
    dist.all_reduce(chosen, group=group)
    return exponents, total, chosen, place, is_here
