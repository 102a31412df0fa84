"""Layer norms beside an adapter."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


def mend_frozen_norms(model: nn.Layer) -> None:
    """paddlepaddle 3.3.1, seen on a CPU: where a layer norm's weight needs no gradient, the gradient of its input is
    computed as if that weight were 1. So every update below a norm of GPT-2, OPT or BLOOM would learn from a wrong one.
    Here such a norm is computed without its weight, which is then multiplied; the output has the same bits."""
    for layer in model.sublayers():
        if isinstance(layer, nn.LayerNorm) and layer.weight is not None:
            layer.forward = _Forward(layer)


class _Forward:
    def __init__(self, layer: nn.LayerNorm) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Any:
        layer = self._layer
        if not layer.weight.stop_gradient or x.stop_gradient or not paddle.is_grad_enabled():
            return type(layer).forward(layer, x)
        normed = F.layer_norm(x, layer._normalized_shape, None, None, layer._epsilon) * layer.weight
        return normed if layer.bias is None else normed + layer.bias
