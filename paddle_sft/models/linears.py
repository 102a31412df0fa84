"""The kinds of linear layer that adapters can wrap, and how to find them in a model."""

from __future__ import annotations

from typing import Dict, Tuple

from paddle import nn

LINEAR_KINDS: Tuple[type, ...] = (nn.Linear,)


def find_linears(model: nn.Layer) -> Dict[str, nn.Layer]:
    """Path -> linear layer, for every layer an adapter can wrap, in the model's order.

    The LM head of PaddleNLP's families is a class of its own and never among them.
    """
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, LINEAR_KINDS)}


def features(layer: nn.Layer) -> Tuple[int, int]:
    """(in, out) of a linear layer; Paddle's weight is [in, out]."""
    rows, columns = layer.weight.shape
    return int(rows), int(columns)
