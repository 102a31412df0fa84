"""Mistral's attention: rotary, inside a sliding window."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_sft.models.networks.rotary import mix
from paddle_sft.models.packed import Cache, LayerRows


def attend(
    layer: nn.Layer, rows: LayerRows, hidden_states: Tensor, past_key_value: Cache = None, **kwargs: Any
) -> tuple:
    """[B, T, hidden] -> ([B, T, hidden], no attention weights, the cache)."""
    output, present = mix(layer, rows, hidden_states, past_key_value)
    return output, None, present
