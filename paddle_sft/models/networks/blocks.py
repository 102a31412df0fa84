"""PaddleNLP's linear layers in sizes that its own attention and MLP classes don't offer."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import paddle
from paddle import nn
from paddlenlp.transformers import linear_utils

Actions = Dict[str, Callable]


def column_linear(config: Any, rows: int, columns: int, has_bias: bool = False) -> nn.Layer:
    """A linear layer [rows, columns], its columns split over the ranks of tensor parallelism."""
    if config.tensor_parallel_degree <= 1:
        return linear_utils.Linear(rows, columns, bias_attr=None if has_bias else False)
    sequences = linear_utils.ColumnSequenceParallelLinear
    kind = sequences if config.sequence_parallel else linear_utils.ColumnParallelLinear
    return kind(rows, columns, has_bias=has_bias, gather_output=False)


def row_linear(config: Any, rows: int, columns: int, has_bias: bool = False) -> nn.Layer:
    """A linear layer [rows, columns], its rows split over the ranks of tensor parallelism."""
    if config.tensor_parallel_degree <= 1:
        return linear_utils.Linear(rows, columns, bias_attr=None if has_bias else False)
    kind = linear_utils.RowSequenceParallelLinear if config.sequence_parallel else linear_utils.RowParallelLinear
    return kind(rows, columns, has_bias=has_bias, input_is_parallel=True)


def head_size(config: Any) -> int:
    """Numbers of a head: head_dim, or hidden_size / heads where it isn't given."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def give_heads(attention: nn.Layer, config: Any, qkv_bias: bool, out_bias: bool = False) -> None:
    """Give an attention layer of PaddleNLP's projections for heads of `head_size`, with and without biases.

    Only where it has others already; what is new is initialised with the rest of the model.
    """
    size, hidden = head_size(config), config.hidden_size
    groups = config.num_key_value_heads * size
    same_biases = (attention.q_proj.bias is not None, attention.o_proj.bias is not None) == (qkv_bias, out_bias)
    if size == attention.head_dim and same_biases:
        return
    attention.head_dim = size
    attention.q_proj = column_linear(config, hidden, config.num_attention_heads * size, qkv_bias)
    attention.k_proj = column_linear(config, hidden, groups, qkv_bias)
    attention.v_proj = column_linear(config, hidden, groups, qkv_bias)
    attention.o_proj = row_linear(config, config.num_attention_heads * size, hidden, out_bias)
    attention._is_initialized = False  # PaddleNLP scales a fresh o_proj by the depth


def layers_of(model: nn.Layer, kind: type) -> List[nn.Layer]:
    """The layers of exactly one class, in the model's order."""
    return [layer for layer in model.sublayers() if type(layer) is kind]


def column_biases(config: Any, actions: Actions, names: Sequence[str]) -> Actions:
    """The tensor-parallel mappings of a class, and the biases of layers whose columns are split.

    Args:
        names: of linear layers below a decoder layer, such as self_attn.q_proj, of which `actions` has the weights.
    """
    found = dict(actions)
    for number in range(config.num_hidden_layers):
        for name in names:
            weight = actions.get(f"layers.{number}.{name}.weight")
            if weight is not None:
                found[f"layers.{number}.{name}.bias"] = weight
    return found


def fused_action(config: Any, sizes: Sequence[int], is_split: bool) -> Callable:
    """Split or merge, over the ranks of tensor parallelism, columns that are several matrices side by side.

    Args:
        sizes: columns of each matrix. A rank has its share of every one, side by side again.
    """
    if is_split:
        return partial(_split_fused, sizes, config.tensor_parallel_degree, config.tensor_parallel_rank)
    return partial(_merge_fused, sizes)


def _split_fused(sizes: Sequence[int], degree: int, rank: Any, weight: Any) -> Any:
    whole = weight[:]  # a slice of a safetensors file reads when it is asked
    parts = [_cut(part, [part.shape[-1] // degree] * degree) for part in _cut(whole, sizes)]
    shares = [_side_by_side(share) for share in zip(*parts)]
    return shares if rank is None else shares[rank]


def _merge_fused(sizes: Sequence[int], weights: Sequence[Any]) -> Any:
    parts = [_cut(weight, [size // len(weights) for size in sizes]) for weight in weights]
    return _side_by_side([share for shares in zip(*parts) for share in shares])


def _cut(array: Any, sizes: Sequence[int]) -> List[Any]:
    if isinstance(array, paddle.Tensor):
        return paddle.split(array, list(sizes), axis=-1)
    return np.split(array, np.cumsum(sizes)[:-1], axis=-1)


def _side_by_side(parts: Sequence[Any]) -> Any:
    return (paddle.concat if isinstance(parts[0], paddle.Tensor) else np.concatenate)(list(parts), axis=-1)
