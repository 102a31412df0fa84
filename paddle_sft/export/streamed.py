"""Run a model whose weights stay on the disk: each layer's are read when it computes and dropped when it has."""

from __future__ import annotations

from typing import Any, Callable, List, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.adapters.base import AdaptedLinear, adapted_linears
from paddle_sft.models.hub import assign, unique_parameters

Read = Callable[[str], Tuple[np.ndarray, str]]
"""Paddle's name of a parameter -> (stored array, its tag)."""


def streamed_logits(model: nn.Layer, read: Read, input_ids: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] in float32 of an empty model (models.hub.build_empty) fed from `read`.

    Memory: the weights of the largest layer, the activations, and the logits. Parameters that hold a value already (an
    adapter's) are used as they are.
    """
    hooks = _feed(model, read)
    try:
        with paddle.no_grad():
            output = model(input_ids=paddle.to_tensor(input_ids.astype("int64")))
    finally:
        for hook in hooks:
            hook.remove()
    logits = output[0] if isinstance(output, (tuple, list)) else output
    return logits.astype("float32").numpy()


def _feed(model: nn.Layer, read: Read) -> List[Any]:
    empty = {
        id(parameter): name for name, parameter in unique_parameters(model).items() if not parameter._is_initialized()
    }
    hooks = []
    inside = {id(layer.base) for layer in adapted_linears(model).values()}
    for layer in model.sublayers(include_self=True):
        if id(layer) in inside:  # an update may ask its base for a product without calling it
            continue
        owner = layer.base if isinstance(layer, AdaptedLinear) else layer
        mine = [p for p in owner.parameters(include_sublayers=False) if id(p) in empty]
        if mine:
            names = {empty[id(p)]: p for p in mine}
            hooks.append(layer.register_forward_pre_hook(_fill(names, read)))
            hooks.append(layer.register_forward_post_hook(_drop(mine)))
    return hooks


def _fill(parameters: dict, read: Read) -> Callable:
    def hook(layer: nn.Layer, inputs: Any) -> None:
        for name, parameter in parameters.items():
            assign(parameter, *read(name))

    return hook


def _drop(parameters: List[paddle.Tensor]) -> Callable:
    def hook(layer: nn.Layer, inputs: Any, output: Any) -> None:
        for parameter in parameters:
            parameter._clear_data()

    return hook
