"""How rows are read: attention stays inside a segment, positions start at 0 in each, generation goes on from a cache.

Every attention layer of a loaded model computes through here, never through PaddleNLP's own forward: that one ignores
sliding windows, and keeps a T x T mask a row.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from paddle_sft.attention.segments import (
    Scoring,
    cached_attention,
    default_scale,
    flashmask_attention,
    segment_attention,
)
from paddle_sft.models.catalogue import FAMILIES, attention_windows
from paddle_sft.models.family import find_named
from paddle_sft.models.fast import rotate
from paddle_sft.models.rope import rope_of
from paddle_sft.models.row_layout import RowLayout
from paddle_sft.models.virtual import VirtualTokens

Cache = Optional[Tuple[Tensor, Tensor]]
"""Keys and values [B, S, G, D] of the tokens before; None at the start of a row."""


def _needs_gradient(*tensors: Tensor) -> bool:
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


class LayerRows:
    """What one attention layer sees of the rows: the layout of all, and its own window."""

    def __init__(self, layout: RowLayout, window: int, number: int = 0, is_last: bool = False) -> None:
        self.layout = layout
        self.number = number
        """Of the layer, from 0."""
        self.is_last = is_last
        """Whether no layer is behind it: then only what is wanted of the rows is computed."""
        self.window = window
        """Tokens a query may look back over, itself included; 0 for no limit."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        past: Cache = None,
        *,
        scale: Optional[float] = None,
        slopes: Optional[Tensor] = None,
        softcap: float = 0.0,
        dropout: float = 0.0,
    ) -> Tuple[Tensor, Cache]:
        """Attention inside the segments, and what a following call needs as `past` (None while segments are set).

        Shapes: query [B, T, H, D], key and value [B, T, G, D] -> [B, T, H, D], or [1, N, H, D] of what is wanted where
        this is the last layer. The other arguments are those of
        `attention.segments.Scoring`; the scale is 1 / sqrt(D) if none is given.
        """
        layout, usual = self.layout, default_scale(query.shape[-1])
        scoring = Scoring(usual if scale is None else scale, self.window, slopes, softcap, dropout)
        prefix = None if layout.before is None or layout.before.in_rows else layout.before
        if layout.segment_lengths is None:
            if past is None and prefix is not None:
                past = tuple(one.astype(key.dtype).expand([len(key), *one.shape]) for one in self._prefix(prefix, key))
            if past is not None:
                key, value = paddle.concat([past[0], key], axis=1), paddle.concat([past[1], value], axis=1)
            mixed = cached_attention(query, key, value, scoring)
            return mixed, (key, value)
        layout.where(query.shape[0], query.shape[1], 0)
        if prefix is not None:
            query, key, value = self._behind(prefix, query, key, value)
        mixed = self._mixed(query, key, value, scoring)
        return (mixed if prefix is None else layout.places.take(mixed)), None

    def _prefix(self, prefix: VirtualTokens, key: Tensor) -> Tuple[Tensor, Tensor]:
        """Of as many heads as the keys [B, T, G, D] have: those that this rank computes."""
        num = key.shape[2]
        begin = self.layout.heads_part * num
        keys, values = prefix.keys_and_values(self.number)
        return keys[:, begin : begin + num], values[:, begin : begin + num]

    def _behind(self, prefix: VirtualTokens, query: Tensor, key: Tensor, value: Tensor) -> Tuple[Tensor, ...]:
        """Rows [B, W, ...] with the prefix in every segment. Its queries are zeros; nobody looks at what they get."""
        nobody = paddle.zeros([prefix.num_virtual, *query.shape[2:]], dtype=query.dtype)
        places, first = self.layout.places, (nobody, *self._prefix(prefix, key))
        return tuple(places.put(one, rows) for one, rows in zip(first, (query, key, value)))

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        layout = self.layout
        if layout.recomputes == "core_attn" and _needs_gradient(query, key, value):
            return recompute(lambda *parts: self._mix(*parts, scoring), query, key, value)
        return self._mix(query, key, value, scoring)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        layout = self.layout
        wanted = layout.wanted if self.is_last else None
        if layout.takes_kernel(query, scoring):
            mixed = flashmask_attention(query, key, value, layout.row_ends(scoring.window), scoring)
            return mixed if wanted is None else wanted.take(mixed)
        return segment_attention(query, key, value, layout.segment_lengths, scoring, wanted)

    def attend_turned(
        self, query: Tensor, key: Tensor, value: Tensor, past: Cache = None, **scoring: Any
    ) -> Tuple[Tensor, Cache]:
        """`attend` with rotary positions."""
        exchange = self.layout.exchange
        if exchange is not None:
            query, key, value = exchange.to_heads(query), exchange.to_heads(key), exchange.to_heads(value)
        past_length = 0 if past is None else past[0].shape[1]
        cos, sin = self.layout.rotary(*query.shape[:2], past_length, query.dtype)
        mixed, present = self.attend(rotate(query, cos, sin), rotate(key, cos, sin), value, past, **scoring)
        return mixed if exchange is None else exchange.to_tokens(mixed), present


def read_by_segments(model: nn.Layer, config: Dict[str, Any]) -> RowLayout:
    """Replace the attention of every layer, in place, by the function that the family names for it.

    That function is called as `function(layer, rows, *args, **kwargs)` with the arguments of the layer's own forward
    and a `LayerRows`, and returns what that forward returns.
    """
    family = FAMILIES[config["model_type"]]
    settings = {**config, **settings_of(model.config)}
    layout = RowLayout(paddle.get_device().startswith("gpu"), rope_of(settings))
    attention_class, function = (find_named(name) for name in family.attention)
    layers = [layer for layer in model.sublayers() if type(layer) is attention_class]
    for number, (layer, window) in enumerate(zip(layers, attention_windows(settings))):
        layer.forward = _Forward(layer, LayerRows(layout, window, number, number == len(layers) - 1), function)
        layer.row_layout = layout
    for layer in model.sublayers():
        if hasattr(layer, "row_layout"):  # it looks positions up
            layer.row_layout = layout
    _leave_out_square_masks(model)
    model.prepare_inputs_for_generation = _InputsForGeneration(model, layout)
    model.row_layout = layout
    return layout


class _InputsForGeneration:
    """The model's own, without a cache that doesn't go on: then the whole row is read again."""

    def __init__(self, model: nn.Layer, layout: RowLayout) -> None:
        self._model = model
        self._layout = layout

    def __call__(self, input_ids: Tensor, **kwargs: Any) -> Dict[str, Any]:
        before = self._layout.before
        length = input_ids.shape[1] + (before.num_virtual if before else 0)
        if not self._layout.goes_on(length - 1, 1):
            kwargs = {**kwargs, "past_key_values": None, "cache": None}
        return type(self._model).prepare_inputs_for_generation(self._model, input_ids, **kwargs)


def settings_of(config: Any) -> Dict[str, Any]:
    """The keys of a family as the network has them, in transformers' spelling, from its PaddleNLP config; a config.json
    of PaddleNLP's may leave out its defaults."""
    family = FAMILIES[config.model_type]
    names = {key: family.spelled.get(key, key) for key in family.keys}
    found = {key: getattr(config, name) for key, name in names.items() if hasattr(config, name)}
    return {"model_type": config.model_type, **found}


class _Forward:
    def __init__(self, layer: nn.Layer, rows: LayerRows, function: Callable) -> None:
        self._layer = layer
        self._rows = rows
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument, or the one named hidden_states, is what the layer reads: [B, T, hidden]."""
        hidden, layout = args[0] if args else kwargs["hidden_states"], self._rows.layout
        recomputes = layout.recomputes == "full_attn" and layout.segment_lengths is not None
        if not recomputes or not _needs_gradient(hidden):
            return self._function(self._layer, self._rows, *args, **kwargs)
        beside: List[Any] = []  # no attention weights and no cache: Paddle takes nothing but tensors out of `again`

        def again(hidden: Tensor, *rest: Any) -> Tensor:
            named = kwargs if args else {**kwargs, "hidden_states": hidden}
            output = self._function(self._layer, self._rows, *((hidden, *rest) if args else ()), **named)
            output, beside[:] = (output[0], output[1:]) if isinstance(output, tuple) else (output, [])
            return output

        output = recompute(again, hidden, *args[1:])
        return (output, *beside) if beside else output


def _leave_out_square_masks(model: nn.Layer) -> None:
    """PaddleNLP's models build a T x T mask before the first layer; nobody reads it here."""
    base = getattr(model, model.base_model_prefix)
    for name in ("_prepare_decoder_attention_mask", "_prepare_attn_mask"):
        if hasattr(base, name):
            setattr(base, name, _no_square_mask)


def _no_square_mask(attention_mask: Optional[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    refuse_filling(attention_mask)
    return paddle.zeros([1])


def refuse_filling(attention_mask: Optional[Tensor]) -> None:
    """
    Raises:
        ValueError: a mask that hides tokens: rows are read as they are, and a batch for generation has equal lengths.
    """
    if attention_mask is not None and attention_mask.ndim == 2 and not bool(attention_mask.astype("bool").all()):
        raise ValueError("this model reads rows without filling; generate for prompts of equal lengths together")
