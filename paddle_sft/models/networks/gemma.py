"""What PaddleNLP's Gemma computes otherwise than the checkpoint says."""

from __future__ import annotations

from typing import Any, Dict

import paddle.nn.functional as F
from paddle import nn


def use_tanh_gelu(model: nn.Layer, config: Dict[str, Any]) -> None:
    """paddlenlp 3.0.0b4: GemmaMLP computes the exact gelu; Gemma was trained with the tanh form, as in transformers."""
    from paddlenlp.transformers.gemma.modeling import GemmaMLP

    for layer in model.sublayers():
        if type(layer) is GemmaMLP:
            layer.forward = _TanhGeluMLP(layer)


class _TanhGeluMLP:
    def __init__(self, layer: nn.Layer) -> None:
        self._layer = layer

    def __call__(self, x: Any) -> Any:
        gate = F.gelu(self._layer.gate_proj(x), approximate=True)
        return self._layer.down_proj(gate * self._layer.up_proj(x))
