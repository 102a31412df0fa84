"""On a CPU: the same numbers in fewer passes over memory. Paddle's elementwise CPU kernels run on one thread, so after
the matrix products their number decides the speed. Compiled operators do the work where there is a compiler, else the
cheapest compositions of Paddle's. On a GPU nothing here is used."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_sft.operators import cpu
from paddle_sft.operators.linear import LinearParts, linears

GATED_MLPS = ("LlamaMLP", "Qwen2MLP", "MistralMLP", "Qwen2MoeMLP")
"""Layers that compute down(silu(gate) * up)."""


class _RMSNorm(PyLayer):
    """y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).

    With n = x / rms, g the gradient of y and d the last axis: dx = (g w - n mean(g w n)) / rms, dw = sum(g n).
    Written out because the gradients of `pow` and of broadcasts take passes of their own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = paddle.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
        normed = x * inverse
        cpu.wanted(ctx, x, weight)
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:
        normed, inverse, weight = ctx.saved_tensor()
        product = gradient * normed
        along = (product @ weight.unsqueeze(-1)) / normed.shape[-1]
        for_x = inverse * (gradient * weight - normed * along)
        for_weight = product.reshape([-1, product.shape[-1]]).sum(0) if ctx.wanted[1] else None
        return cpu.only_wanted(ctx, for_x, for_weight)


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
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    x [B, T, H, D], cos and sin [B, T, 1, R]; if R is less than D, only the first R numbers of a head turn.
    """
    return cpu.Rotary.apply(x, cos, sin) if cpu.is_compiled_for(x) else composed_rotate(x, cos, sin)


def composed_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` by Paddle's operators."""
    size = cos.shape[-1]
    if size == x.shape[-1]:
        return _Rotary.apply(x, cos, sin)
    return paddle.concat([_Rotary.apply(x[..., :size], cos, sin), x[..., size:]], axis=-1)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last axis; the mean is taken in float32. x [..., D], weight [D]."""
    if paddle.get_device().startswith("cpu"):
        return (cpu.RMSNorm if cpu.is_compiled_for(x) else _RMSNorm).apply(x, weight, epsilon)
    mean = x.astype("float32").square().mean(-1, keepdim=True)
    return (paddle.rsqrt(mean + epsilon) * x).astype(weight.dtype) * weight


def is_hooked(layer: nn.Layer) -> bool:
    """Whether somebody looks at, or changes, what goes through a layer, or gave it a forward of its own
    (`quant.aware`): then it has to be called."""
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks or "forward" in vars(layer))


def parts_of(layer: nn.Layer) -> Optional[LinearParts]:
    """What `operators.linear` needs to compute a layer, or None where the layer itself has to be called.

    A layer that isn't a plain one may have a method `linear_parts`, which answers the same.
    """
    if is_hooked(layer):
        return None
    if type(layer) is nn.Linear:
        return LinearParts(layer.weight, layer.bias)
    return layer.linear_parts() if hasattr(layer, "linear_parts") else None


def fused_linears(x: Tensor, layers: Sequence[nn.Layer]) -> Optional[List[Tensor]]:
    """Outputs of layers that read the same x; None if they can't be computed together.

    Shapes: x [..., in] -> [..., out] of each layer.
    """
    if not cpu.is_compiled_for(x):
        return None
    parts = [parts_of(layer) for layer in layers]
    if any(one is None or any(tensor.dtype != paddle.float32 for tensor in one.tensors()) for one in parts):
        return None
    return linears(x, parts)


def apply_linears(x: Tensor, *layers: nn.Layer) -> List[Tensor]:
    """Outputs of layers that read the same x, computed together where that can be."""
    found = fused_linears(x, layers)
    return [layer(x) for layer in layers] if found is None else found


def use_cpu_forms(model: nn.Layer, norms: Tuple[str, ...]) -> None:
    """Replace the forward of every RMSNorm and gated MLP of a PaddleNLP model, in place, if it computes on a CPU.

    `norms` are the class names; one that starts with Gemma stores the scale's distance from 1.
    """
    if not paddle.get_device().startswith("cpu"):
        return
    for layer in model.sublayers():
        if type(layer).__name__ in norms:
            layer.forward = _NormForward(layer, offset=type(layer).__name__.startswith("Gemma"))
        elif type(layer).__name__ in GATED_MLPS:
            layer.forward = _GatedForward(layer)


class _NormForward:
    def __init__(self, layer: nn.Layer, offset: bool) -> None:
        self._layer = layer
        self._offset = offset

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._layer.weight + 1 if self._offset else self._layer.weight
        return rms_norm(x, weight, self._layer.variance_epsilon)


class _GatedForward:
    def __init__(self, layer: nn.Layer) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = apply_linears(x, self._layer.gate_proj, self._layer.up_proj)
        return self._layer.down_proj(cpu.SwiGLU.apply(gate, up) if cpu.is_compiled_for(gate) else F.swiglu(gate, up))
