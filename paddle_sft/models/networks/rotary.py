"""Attention with rotary positions as llama, qwen2 and gemma compute it."""

from __future__ import annotations

from typing import Any, Optional, Tuple

from paddle import Tensor, nn

from paddle_sft.models.fast import rotate
from paddle_sft.models.packed import Cache, LayerRows


def attend(
    layer: nn.Layer,
    rows: LayerRows,
    hidden_states: Tensor,
    position_ids: Optional[Tensor] = None,
    past_key_value: Cache = None,
    attention_mask: Optional[Tensor] = None,
    output_attentions: bool = False,
    use_cache: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """[B, T, hidden] -> [B, T, hidden], with the cache beside it if one is asked for."""
    output, present = mix(layer, rows, hidden_states, past_key_value)
    return (output, present) if use_cache and present is not None else output


def mix(layer: nn.Layer, rows: LayerRows, hidden_states: Tensor, past: Cache) -> Tuple[Tensor, Cache]:
    """The layer's projections, rotary positions, attention and output projection."""
    projected = [layer.q_proj(hidden_states), layer.k_proj(hidden_states), layer.v_proj(hidden_states)]
    query, key, value = [tensor.reshape([0, 0, -1, layer.head_dim]) for tensor in projected]
    cos, sin = rows.layout.rotary(layer, value, 0 if past is None else past[0].shape[1])
    mixed, present = rows.attend(rotate(query, cos, sin), rotate(key, cos, sin), value, past)
    return layer.o_proj(mixed.reshape([0, 0, -1])), present
