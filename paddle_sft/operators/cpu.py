"""The compiled operators as Paddle functions with gradients. All tensors are float32 on the CPU.

Each has a composition of Paddle's operators beside it (`models.fast`, `attention.segments`, `losses.head`), which
computes where there is no compiler, and which the tests compare with.
"""

from __future__ import annotations

import math
from typing import Any, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_sft.operators.build import load_operators

_CPU = paddle.CPUPlace()


def is_compiled_for(tensor: Tensor) -> bool:
    """Whether the operators are there and compute this tensor's type."""
    return tensor.dtype == paddle.float32 and load_operators() is not None


def whole(tensor: Tensor) -> Tensor:
    """The tensor, its numbers in order and without gaps."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def made(shape: Sequence[int]) -> Tensor:
    """A float32 tensor with any numbers, as `paddle.empty` makes it in four times as long: a step makes hundreds."""
    return paddle._C_ops.empty(shape, paddle.float32, _CPU)


def like(tensor: Tensor) -> Tensor:
    """`made` of a tensor's shape."""
    return made(tensor.shape)


def size_of(tensor: Tensor) -> int:
    """How many numbers it has; `Tensor.size` asks NumPy, which takes 30 times as long."""
    return math.prod(tensor.shape)


def wanted(ctx: Any, *inputs: Tensor) -> None:
    """Note in forward which inputs need a gradient: PyLayer asks for None in the place of the others."""
    ctx.wanted = [not one.stop_gradient for one in inputs]


def only_wanted(ctx: Any, *gradients: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
    return tuple(gradient if asked else None for gradient, asked in zip(gradients, ctx.wanted))


class RMSNorm(PyLayer):
    """y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wanted(ctx, x, weight)
        x = whole(x)
        size = x.shape[-1]
        rows = size_of(x) // size
        output, inverse = like(x), made([rows])
        pointers = (x.data_ptr(), weight.data_ptr(), output.data_ptr(), inverse.data_ptr())
        load_operators().rms_norm(*pointers, rows, size, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight, inverse = ctx.saved_tensor()
        gradient = whole(gradient)
        for_x = like(x)
        for_weight = like(weight) if ctx.wanted[1] else None
        load_operators().rms_norm_grad(
            x.data_ptr(), weight.data_ptr(), inverse.data_ptr(), gradient.data_ptr(), for_x.data_ptr(),
            None if for_weight is None else for_weight.data_ptr(), inverse.shape[0], x.shape[-1],
        )  # fmt: skip
        return only_wanted(ctx, for_x, for_weight)


class Rotary(PyLayer):
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864): x [B, T, H, D], cos and sin [B, T, 1, R]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        return _turn(gradient, *ctx.saved_tensor(), 1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, inverse: int) -> Tensor:
    x, cos, sin = whole(x), whole(cos), whole(sin)
    output = like(x)
    rows, width, heads, size = x.shape
    pointers = (x.data_ptr(), cos.data_ptr(), sin.data_ptr(), output.data_ptr())
    load_operators().rotary(*pointers, rows * width, heads, size, cos.shape[-1], inverse)
    return output


class SwiGLU(PyLayer):
    """silu(gate) * up (Shazeer 2020, https://arxiv.org/abs/2002.05202), all of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        wanted(ctx, gate, up)
        gate, up = whole(gate), whole(up)
        output = like(gate)
        load_operators().swiglu(gate.data_ptr(), up.data_ptr(), output.data_ptr(), size_of(gate))
        ctx.save_for_backward(gate, up)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:
        gate, up = ctx.saved_tensor()
        gradient = whole(gradient)
        for_gate, for_up = like(gate), like(up)
        tensors = (gate, up, gradient, for_gate, for_up)
        load_operators().swiglu_grad(*(tensor.data_ptr() for tensor in tensors), size_of(gate))
        return only_wanted(ctx, for_gate, for_up)


def cross_entropy_in_place(scores: Tensor, labels: Tensor) -> float:
    """Sum of -log softmax(scores)[label] over rows [N, V], labels [N] int64; `scores` becomes its gradient."""
    rows, vocabulary = scores.shape
    return load_operators().cross_entropy_in_place(scores.data_ptr(), labels.data_ptr(), rows, vocabulary)


class SegmentAttention(PyLayer):
    """Causal attention inside segments, flash-like: weights are computed again in the backward pass, never kept.

    Shapes: query [B, T, H, D], key and value [B, T, G, D], starts [S + 1] int64, where segments begin in the rows laid
    end to end, and B * T -> [B, T, H, D]. With `places` [N] int64, ascending, the tokens there are the only ones that
    ask: query [1, N, H, D] -> [1, N, H, D].
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        starts: np.ndarray,
        window: int,
        scale: float,
        places: Optional[np.ndarray] = None,
    ) -> Tensor:
        wanted(ctx, query, key, value)
        query, key, value = whole(query), whole(key), whole(value)
        rows, width, heads, size = query.shape
        output, log_sums = like(query), made([rows * width, heads])
        asking = () if places is None else _asking(starts, places)
        ctx.sizes = (starts.ctypes.data, len(starts) - 1, heads, key.shape[2], size, window, scale)
        ctx.sizes += tuple(array.ctypes.data for array in asking) or (None, None)
        ctx.arrays = (starts, *asking)  # keeps the memory that `sizes` points to
        tensors = (query, key, value, output, log_sums)
        load_operators().attention(*(tensor.data_ptr() for tensor in tensors), *ctx.sizes)
        ctx.save_for_backward(*tensors)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:
        query, key, value, output, log_sums = ctx.saved_tensor()
        gradient = whole(gradient)
        found = (like(query), like(key), like(value))
        tensors = (query, key, value, output, log_sums, gradient, *found)
        load_operators().attention_grad(*(tensor.data_ptr() for tensor in tensors), *ctx.sizes)
        return only_wanted(ctx, *found)


def _asking(starts: np.ndarray, places: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """[S + 1] how many of `places` stand before each segment, and [N] where in its segment each stands."""
    before = np.searchsorted(places, starts).astype(np.int64)
    return before, places - np.repeat(starts[:-1], np.diff(before))


def starts_of(segment_lengths: Sequence[Sequence[int]]) -> np.ndarray:
    """[S + 1] int64 for `SegmentAttention`."""
    lengths = [length for row in segment_lengths for length in row]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
