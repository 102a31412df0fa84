"""What one rank holds of a model: parts of matrices (tensor parallelism), some of the layers (pipelines).

The network is PaddleNLP's, built by the family as in one process; a layer that is elsewhere stays in its place without
its parameters. So every name means the same on every rank, and the same as in one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.models.linears import find_linears
from paddle_sft.models.part_of import PartOf, Range


@dataclass(frozen=True)
class Share:
    """Which part of the model a rank holds."""

    tensor: int = 1
    tensor_rank: int = 0
    tensor_group: Any = None
    pipeline_group: Any = None
    """Of the ranks that together hold the layers; None if all are here."""
    sequence_parallel: bool = False
    ranges: Tuple[Range, ...] = ()
    """Of layers, one for each part of the stack that this stage holds; () for all."""
    is_first: bool = True
    """Whether the embedding is here."""
    is_last: bool = True
    """Whether the last norm and the head are here."""


def find_parts(model_class: Any, config: Any, shapes: Mapping[str, Tuple[int, ...]]) -> Dict[str, PartOf]:
    """Name -> the part of a weight that a rank of tensor parallelism has, as PaddleNLP's class splits it.

    Args:
        config: with tensor_parallel_degree and tensor_parallel_rank.
        shapes: of the whole weights.
    """
    if config.tensor_parallel_degree <= 1:
        return {}
    actions = model_class.get_tensor_parallel_convert_actions(config, list(shapes), ignore_error=True)
    degree = config.tensor_parallel_degree
    return {name: _ask(action, shapes[name], degree) for name, action in actions.items() if name in shapes}


def _ask(action: Any, shape: Tuple[int, ...], degree: int) -> PartOf:
    """Which part an action takes, found by giving it arrays of positions that are as small as it allows."""
    if len(shape) == 1:
        return PartOf(shape, 0, _ranges(action(np.arange(shape[0]))))
    rows, columns = shape
    taken = action(np.broadcast_to(np.arange(columns), (degree, columns)))
    if taken.shape[0] == degree:
        return PartOf(shape, 1, _ranges(taken[0]))
    return PartOf(shape, 0, _ranges(action(np.broadcast_to(np.arange(rows)[:, None], (rows, degree)))[:, 0]))


def _ranges(positions: np.ndarray) -> Tuple[Range, ...]:
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(positions, breaks))


def become_share(model: nn.Layer, whole: nn.Layer, share: Share, shapes: Dict[str, Tuple[int, ...]]) -> None:
    """Make of a network, built with the share's tensor degree and empty yet, what the rank holds.

    Args:
        whole: the same network as in one process, empty.
        shapes: of its weights, a tied pair once.
    """
    parts = find_parts(type(model), model.config, shapes)
    vectors = whole.get_input_embeddings().weight
    model.share, model.whole_shapes, model.config = share, shapes, whole.config
    if share.tensor > 1:
        model.row_layout.heads_part = share.tensor_rank
        model.row_layout.tokens_part = (share.tensor_rank, share.tensor) if share.sequence_parallel else (0, 1)
    model.embedding_name = next(name for name, one in whole.state_dict().items() if one is vectors and name in shapes)
    for name, parameter in model.state_dict().items():
        if name in parts:
            parameter.part = parts[name]
    sizes = {path: tuple(layer.weight.shape) for path, layer in find_linears(whole).items()}
    for path, layer in find_linears(model).items():
        layer.whole_size = sizes[path]
    if share.ranges:
        _leave_out(model, share)


def _leave_out(model: nn.Layer, share: Share) -> None:
    base = getattr(model, model.base_model_prefix)
    here = {number for first, last in share.ranges for number in range(first, last)}
    is_tied = "lm_head.weight" not in model.whole_shapes
    for number, layer in enumerate(base.layers):
        if number not in here:
            _forget(layer)
    if not (share.is_first or (share.is_last and is_tied)):
        _forget(model.get_input_embeddings())
    if not share.is_last:
        _forget(base.norm)
        if is_tied and share.is_first:
            return
        _forget(model.lm_head)


def _forget(layer: nn.Layer) -> None:
    """Take a layer's parameters away; a linear layer stays known by its size."""
    for one in layer.sublayers(include_self=True):
        if hasattr(one, "whole_size"):
            one.is_elsewhere, one.dtype_elsewhere = True, str(one.weight.dtype).rsplit(".", 1)[-1]
            one.has_bias_elsewhere = one._parameters.get("bias") is not None
        for name in list(one._parameters):
            one._parameters[name] = None


def part_of(parameter: Any) -> Any:
    """The `PartOf` of a parameter that ranks have parts of; None for one that each has whole."""
    return getattr(parameter, "part", None)


def keep_part(layer: nn.Layer, name: str, part: PartOf) -> None:
    """Replace a parameter or a buffer of a layer by a part of itself."""
    whole = getattr(layer, name)
    array = np.ascontiguousarray(part.take(whole.numpy()))
    if name in layer._buffers:
        layer._buffers[name] = paddle.to_tensor(array, dtype=whole.dtype)
        layer._buffers[name].part = part
        return
    nothing = nn.initializer.Constant(0.0)  # draws no random numbers: those behind it stay as in one process
    parameter = layer.create_parameter(list(array.shape), dtype=whole.dtype, default_initializer=nothing)
    parameter.set_value(array)
    parameter.part, parameter.stop_gradient = part, whole.stop_gradient
    parameter.optimize_attr = whole.optimize_attr
    setattr(layer, name, parameter)
