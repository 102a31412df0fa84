"""Attention of ranks that share the tokens of a row: for it, each has all tokens of a part of the heads.

DeepSpeed-Ulysses (Jacobs et al. 2023, https://arxiv.org/abs/2309.14509). paddlenlp 3.0.0b4 has the same exchange in
`segment_parallel_utils`, with the two arguments of Paddle's all-to-all swapped: it trains nothing. It isn't used here.
"""

from __future__ import annotations

from typing import Any, Callable

import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.autograd import PyLayer


class HeadExchange:
    """The exchange among the ranks of a group."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def to_heads(self, tensor: Tensor) -> Tensor:
        """[B, T / ranks, H, D] -> [B, T, H / ranks, D]."""
        return _Exchanged.apply(tensor, self._group, _to_heads, _to_tokens)

    def to_tokens(self, tensor: Tensor) -> Tensor:
        """[B, T, H / ranks, D] -> [B, T / ranks, H, D]."""
        return _Exchanged.apply(tensor, self._group, _to_tokens, _to_heads)


class _Exchanged(PyLayer):
    """The gradient of one exchange is the other."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any, exchange: Callable, back: Callable) -> Tensor:
        ctx.back = back, group
        return exchange(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        back, group = ctx.back
        return back(gradient, group)


def _to_heads(tensor: Tensor, group: Any) -> Tensor:
    rows, tokens, heads, size = tensor.shape
    num = group.nranks
    parts = tensor.reshape([rows, tokens, num, heads // num, size]).transpose([2, 0, 1, 3, 4])
    return _exchange(parts, group).transpose([1, 0, 2, 3, 4]).reshape([rows, num * tokens, heads // num, size])


def _to_tokens(tensor: Tensor, group: Any) -> Tensor:
    rows, tokens, heads, size = tensor.shape
    num = group.nranks
    parts = tensor.reshape([rows, num, tokens // num, heads, size]).transpose([1, 0, 2, 3, 4])
    return _exchange(parts, group).transpose([1, 2, 0, 3, 4]).reshape([rows, tokens // num, num * heads, size])


def _exchange(parts: Tensor, group: Any) -> Tensor:
    """[ranks, ...]: part j goes to rank j, which puts what it gets from rank i at i."""
    out = paddle.empty(parts.shape, dtype=parts.dtype)
    dist.alltoall_single(out, parts.contiguous(), group=group)
    return out
