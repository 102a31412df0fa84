"""BLOOM's attention: one fused projection, ALiBi instead of positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.models.packed import Cache, LayerRows


def attend(
    layer: nn.Layer, rows: LayerRows, hidden_states: Tensor, residual: Tensor, layer_past: Cache = None, **kwargs: Any
) -> tuple:
    """[B, T, hidden], and the residual [B, T, hidden] that is added to the result -> (their sum, the cache)."""
    query, key, value = layer._split_heads(layer.query_key_value(hidden_states))
    mixed, present = rows.attend(query, key, value, layer_past, slopes=alibi_slopes(layer.num_heads, query.dtype))
    output = layer.dense(mixed.reshape([0, 0, -1]))
    return residual + nn.functional.dropout(output, layer.hidden_dropout, training=layer.training), present


def alibi_slopes(num_heads: int, dtype: Any) -> Tensor:
    """ALiBi slopes [H] (Press et al. 2021, https://arxiv.org/abs/2108.12409): powers of 2**(-8 / H), H a power of two;
    the heads beyond the largest power of two below H take every other slope of twice as many heads."""
    whole = 2 ** int(np.floor(np.log2(num_heads)))
    slopes = [2 ** (-8.0 / whole * (head + 1)) for head in range(whole)]
    slopes += [2 ** (-4.0 / whole * (head + 1)) for head in range(0, 2 * (num_heads - whole), 2)]
    return paddle.to_tensor(slopes, dtype="float32").astype(dtype)
