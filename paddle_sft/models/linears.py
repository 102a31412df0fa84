"""The kinds of linear layer that adapters can wrap, how to find them in a model, and what an adapter may ask of one.

A kind is a layer class that is called with x [..., in] and gives [..., out]. One that doesn't keep its matrix as
`weight` [in, out] has the methods `features`, `product`, `weight_matrix` and `compute_dtype` of its own.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from paddle import Tensor, nn

LINEAR_KINDS: Tuple[type, ...] = (nn.Linear,)


def find_linears(model: nn.Layer) -> Dict[str, nn.Layer]:
    """Path -> linear layer, for every layer an adapter can wrap, in the model's order.

    The LM head of PaddleNLP's families is a class of its own and never among them.
    """
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, LINEAR_KINDS)}


def features(layer: nn.Layer) -> Tuple[int, int]:
    """(in, out) of a linear layer; Paddle's weight is [in, out]."""
    if hasattr(layer, "features"):
        return layer.features()
    rows, columns = layer.weight.shape
    return int(rows), int(columns)


def product(layer: nn.Layer, x: Tensor) -> Tensor:
    """x W, without the bias. x [..., in] -> [..., out]."""
    return layer.product(x) if hasattr(layer, "product") else x @ layer.weight


def weight_matrix(layer: nn.Layer) -> Tensor:
    """W [in, out] in float32, without a gradient."""
    if hasattr(layer, "weight_matrix"):
        return layer.weight_matrix()
    return layer.weight.detach().astype("float32")


def bias_of(layer: nn.Layer) -> Optional[Tensor]:
    """The bias [out], None where there is none."""
    return getattr(layer, "bias", None)


def compute_dtype(layer: nn.Layer) -> str:
    """The type that the layer computes in, e.g. float32: an adapter's parameters have it too."""
    if hasattr(layer, "compute_dtype"):
        return layer.compute_dtype()
    return str(layer.weight.dtype).rsplit(".", 1)[-1]
