"""On a CPU: the same numbers in fewer passes over memory. Paddle's elementwise CPU kernels run on one thread, so after
the matrix products their number decides the speed. On a GPU nothing here is used."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer


class _RMSNorm(PyLayer):
    """y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).

    With n = x / rms, g the gradient of y and d the last axis: dx = (g w - n mean(g w n)) / rms, dw = sum(g n).
    Composed from Paddle's operators, `pow` and the gradients of broadcasts cost 4 times as much (13.4 ms against 3.2 ms
    for [1024, 256], forward and backward, one thread: tools/benchmark_operators.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = paddle.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        normed = x * inverse
        ctx.trains_weight = not weight.stop_gradient
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        normed, inverse, weight = ctx.saved_tensor()
        product = gradient * normed
        along = (product @ weight.unsqueeze(-1)) / normed.shape[-1]
        for_x = inverse * (gradient * weight - normed * along)
        size = product.shape[-1]
        return for_x, product.reshape([-1, size]).sum(0) if ctx.trains_weight else None


class _Rotary(PyLayer):
    """x cos + rotate(x) sin, rotate([a, b]) = [-b, a] on the halves of the last axis; its transpose turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = paddle.chunk(x, 2, axis=-1)
        return x * cos + paddle.concat([-second, first], axis=-1) * sin

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensor()
        first, second = paddle.chunk(gradient * sin, 2, axis=-1)
        return gradient * cos + paddle.concat([second, -first], axis=-1), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864). x [B, T, H, D], cos and sin [B, T, 1, D]."""
    return _Rotary.apply(x, cos, sin)


def use_cpu_forms(model: nn.Layer, norms: Tuple[str, ...]) -> None:
    """Replace the forward of every RMSNorm of a PaddleNLP model, in place, if it computes on a CPU.

    `norms` are the class names; one that starts with Gemma stores the scale's distance from 1.
    """
    if not paddle.get_device().startswith("cpu"):
        return
    for layer in model.sublayers():
        if type(layer).__name__ in norms:
            layer.forward = _NormForward(layer, offset=type(layer).__name__.startswith("Gemma"))


class _NormForward:
    def __init__(self, layer: nn.Layer, offset: bool) -> None:
        self._layer = layer
        self._offset = offset

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._layer.weight + 1 if self._offset else self._layer.weight
        return _RMSNorm.apply(x, weight, self._layer.variance_epsilon)
