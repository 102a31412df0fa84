"""The last decoder layer where a loss stands at some tokens only, such as those of answers.

Keys and values are of all tokens. The queries, the output projection, the feed-forward network, the norms behind them
and the head are computed of the wanted tokens alone: no other number has a part in the loss or in a gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from paddle import Tensor, nn

from paddle_sft.attention.segments import Wanted
from paddle_sft.models.row_layout import RowLayout
from paddle_sft.models.virtual import decoder_layers

NARROWED = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "MistralDecoderLayer", "GemmaDecoderLayer")
"""Layers that compute h = x + self_attn(input_layernorm(x)) and then h + mlp(post_attention_layernorm(h))."""
MOST = 0.9
"""Share of tokens from which on picking them out saves nothing."""
_OURS = "paddle_sft.models."


def narrow_last_layer(model: nn.Layer) -> None:
    """Let the last decoder layer of a model compute `RowLayout.wanted` alone, in place; families whose layer is built
    otherwise stay as they are."""
    last = decoder_layers(model)[-1]
    if type(last).__name__ in NARROWED:
        last.forward = _Forward(last, model.row_layout)
        model.row_layout.last_layer = last


def want(model: nn.Layer, places: np.ndarray) -> None:
    """Of the rows that were set, compute these tokens only, if nobody looks at the others.

    `RowLayout.wanted` says whether it is so, until rows are set again.

    Args:
        places: their numbers among the B * T tokens of the rows, ascending.
    """
    num_tokens = int(np.prod(model.row_layout.shape))
    if 0 < len(places) <= MOST * num_tokens and _is_alone(model):
        model.row_layout.wanted = Wanted(places)


def _is_alone(model: nn.Layer) -> bool:
    """Whether nothing but the head reads the tokens of the last layer, and nothing in it mixes them."""
    layout: RowLayout = model.row_layout
    if layout.last_layer is None or layout.exchange is not None or layout.before is not None or hasattr(model, "share"):
        return False
    base = getattr(model, model.base_model_prefix)
    layers = (layout.last_layer, *layout.last_layer.sublayers(), base.norm)
    return not _has_hooks(base) and not any(_has_hooks(layer) or _is_replaced(layer) for layer in layers)


def _has_hooks(layer: nn.Layer) -> bool:
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def _is_replaced(layer: nn.Layer) -> bool:
    """Whether a layer has a forward of its own that may know more than one token, such as `quant.aware`'s."""
    return "forward" in vars(layer) and not type(layer.forward).__module__.startswith(_OURS)


class _Forward:
    def __init__(self, layer: nn.Layer, layout: RowLayout) -> None:
        self._layer, self._layout = layer, layout

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """[B, T, H] -> [B, T, H] as the layer's own forward returns it, or ([1, N, H],) of what is wanted."""
        layer, wanted = self._layer, self._layout.wanted
        if wanted is None:
            return type(layer).forward(layer, hidden, *args, **kwargs)
        attended = layer.self_attn(layer.input_layernorm(hidden))
        attended = attended[0] if isinstance(attended, tuple) else attended
        hidden = wanted.take(hidden) + attended
        return (hidden + layer.mlp(layer.post_attention_layernorm(hidden)),)
