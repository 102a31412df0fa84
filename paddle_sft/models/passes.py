"""A forward pass in pieces: embedding, some of the layers, the last norm; for a model of which a rank holds a share.

Between the layers hidden states are [B, T, H]; with sequence parallelism [B * T / tensor, H], each rank has its tokens.
Where virtual tokens stand in the rows, T counts them.
"""

from __future__ import annotations

from typing import Any, Tuple

from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute
from paddle.distributed.fleet.utils.sequence_parallel_utils import GatherOp, ScatterOp

from paddle_sft.models.catalogue import FAMILIES


def embed(model: nn.Layer, input_ids: Tensor) -> Tensor:
    """[B, T] -> hidden states, virtual tokens among them."""
    hidden, before = model.get_input_embeddings()(input_ids), model.row_layout.before
    if before is not None and before.in_rows:
        hidden = model.row_layout.places.put(before.vectors(), hidden)
    if FAMILIES[model.config.model_type].scales_embedding:
        hidden = hidden * (model.config.hidden_size**0.5)
    if not model.share.sequence_parallel:
        return hidden
    return ScatterOp.apply(hidden.reshape([-1, hidden.shape[-1]]))


def run_layers(model: nn.Layer, hidden: Tensor, numbers: Tuple[int, int]) -> Tensor:
    """The layers from the first number up to the second."""
    base = _base(model)
    is_recomputed = getattr(base, "enable_recompute", False) and model.training and not hidden.stop_gradient
    run_layer = getattr(model, "run_layer", None)  # of weights that are not at hand (train.weight_shards)
    for number in range(*numbers):
        layer = _Layer(base.layers[number])
        if run_layer is not None:
            hidden = run_layer(number, layer, hidden)
        else:
            hidden = recompute(layer, hidden) if is_recomputed else layer(hidden)
    return hidden


def finish(model: nn.Layer, hidden: Tensor, shape: Tuple[int, int]) -> Tensor:
    """The last norm: hidden states -> [B, T, H] of rows of a shape, the same on all ranks of tensor parallelism."""
    hidden, before = _base(model).norm(hidden), model.row_layout.before
    if model.share.sequence_parallel:
        hidden = GatherOp.apply(hidden).reshape([shape[0], -1, hidden.shape[-1]])
    return model.row_layout.places.take(hidden) if before is not None and before.in_rows else hidden


def run_whole(model: nn.Layer, input_ids: Tensor) -> Tensor:
    """[B, T] -> [B, T, H], where all layers are here."""
    hidden = run_layers(model, embed(model, input_ids), (0, len(_base(model).layers)))
    return finish(model, hidden, tuple(input_ids.shape))


class _Layer:
    def __init__(self, layer: nn.Layer) -> None:
        self._layer = layer

    def __call__(self, hidden: Tensor) -> Tensor:
        output = self._layer(hidden)
        return output[0] if isinstance(output, tuple) else output


def _base(model: nn.Layer) -> Any:
    return getattr(model, model.base_model_prefix)
