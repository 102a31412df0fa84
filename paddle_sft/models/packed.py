"""How rows are read: attention stays inside a segment, positions start at 0 in each, generation goes on from a cache.

Every attention layer of a loaded model computes through here, never through PaddleNLP's own forward: that one ignores
sliding windows, and keeps a T x T mask a row.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.attention.segments import (
    Scoring,
    cached_attention,
    default_scale,
    flashmask_attention,
    segment_attention,
)
from paddle_sft.masks.segments import position_ids, row_ends
from paddle_sft.models.catalogue import FAMILIES, attention_windows
from paddle_sft.models.family import Family, find_named
from paddle_sft.models.fast import rotate
from paddle_sft.models.rope import Rope, rope_of
from paddle_sft.models.rotary_tables import RotaryTables

Cache = Optional[Tuple[Tensor, Tensor]]
"""Keys and values [B, S, G, D] of the tokens before; None at the start of a row."""


class RowLayout:
    """The segments of the rows that are computed now; every attention layer of the model looks here.

    Set by the stage before a forward pass, and kept through its backward pass: recomputing asks again. While nothing is
    set (generation), a row is one segment without filling, which may go on from a cache.
    """

    def __init__(self, on_gpu: bool, rope: Optional[Rope] = None) -> None:
        self.on_gpu = on_gpu
        self.segment_lengths: Optional[List[List[int]]] = None
        self._extents: List[List[int]] = []
        self._positions: Optional[np.ndarray] = None
        self.positions: Optional[Tensor] = None
        self.row_ends: Optional[Tensor] = None
        self._tables = RotaryTables(rope) if rope else None
        self._found: Dict[Any, Tuple[Tensor, Tensor]] = {}

    def set(self, segment_lengths: Sequence[Sequence[int]], positions: Optional[np.ndarray] = None) -> None:
        """[B] rows of segment lengths, each adding up to T.

        Args:
            positions: [B, T] int64, of the tokens in their segments; None: from 0 on in each. Where they skip, a
                segment turns as one that is as long as its positions reach.
        """
        self.segment_lengths = self._extents = [list(row) for row in segment_lengths]
        if positions is None:
            positions = np.stack([position_ids(row) for row in segment_lengths])
        else:
            self._extents = [_reach(*row) for row in zip(positions, segment_lengths)]
        self._positions = positions.astype("int64")
        self.positions = paddle.to_tensor(self._positions)
        self._found = {}
        if self.on_gpu:
            ends = np.stack([row_ends(row) for row in segment_lengths]).astype("int32")
            self.row_ends = paddle.to_tensor(ends[:, None, :, None])

    def clear(self) -> None:
        """Whole rows again, with a cache if the model is asked to keep one."""
        self.segment_lengths = self.positions = self.row_ends = None
        self._found = {}

    def where(self, num_rows: int, width: int, past: int) -> Tensor:
        """Positions [B, T] of the tokens in their segments, `past` tokens of which were read before.

        Raises:
            ValueError: rows of another shape than the segments that were set.
        """
        if self.segment_lengths is None:
            return paddle.arange(past, past + width).expand([num_rows, width])
        if list(self.positions.shape) != [num_rows, width]:
            raise ValueError(
                f"segments were set for rows {list(self.positions.shape)}, the rows are {[num_rows, width]}; "
                "call model.row_layout.set for these rows, or clear it"
            )
        return self.positions

    def longest(self, width: int, past: int) -> int:
        """How far the positions reach, what was read before included: the longest segment, unless they skip."""
        return past + width if self.segment_lengths is None else max(max(row) for row in self._extents)

    def goes_on(self, past: int, width: int) -> bool:
        """Whether a cache of `past` tokens holds what they are in a row of `past` + `width`: their rotary positions may
        depend on the row's length."""
        if self._tables is None or not past:
            return True
        return self._tables.rope.key(past) == self._tables.rope.key(past + width)

    def rotary(self, num_rows: int, width: int, past: int, dtype: Any) -> Tuple[Tensor, Tensor]:
        """cos and sin [B, T, 1, D] of the tokens that `where` finds; looked up once for all layers.

        Raises:
            ValueError: a cache that doesn't go on (see `goes_on`).
        """
        if not self.goes_on(past, width):
            raise ValueError(
                f"rotary positions of this kind turn all tokens otherwise in a row of {past + width} than in one of "
                f"{past}; read the whole row again, without the cache"
            )
        asked = (num_rows, width, past, dtype)
        if asked not in self._found:
            self.where(num_rows, width, past)  # the rows are those that were set
            if self.segment_lengths is None:
                positions = np.arange(past, past + width)[None].repeat(num_rows, 0)
                lengths = extents = [[past + width]] * num_rows
            else:
                positions, lengths, extents = self._positions, self.segment_lengths, self._extents
            cos, sin = self._tables.look_up(positions, lengths, extents)
            self._found = {asked: (cos.astype(dtype), sin.astype(dtype))}
        return self._found[asked]


def _reach(positions: np.ndarray, segment_lengths: Sequence[int]) -> List[int]:
    """The first position behind each segment of a row [T]."""
    starts = np.cumsum([0, *segment_lengths[:-1]])
    return (np.maximum.reduceat(positions, starts) + 1).tolist()


class LayerRows:
    """What one attention layer sees of the rows: the layout of all, and its own window."""

    def __init__(self, layout: RowLayout, window: int) -> None:
        self.layout = layout
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

        Shapes: query [B, T, H, D], key and value [B, T, G, D] -> [B, T, H, D]. The other arguments are those of
        `attention.segments.Scoring`; the scale is 1 / sqrt(D) if none is given.
        """
        layout, usual = self.layout, default_scale(query.shape[-1])
        scoring = Scoring(usual if scale is None else scale, self.window, slopes, softcap, dropout)
        if layout.segment_lengths is None:
            if past is not None:
                key, value = paddle.concat([past[0], key], axis=1), paddle.concat([past[1], value], axis=1)
            mixed = cached_attention(query, key, value, scoring)
            return mixed, (key, value)
        layout.where(query.shape[0], query.shape[1], 0)
        if layout.on_gpu and slopes is None and not softcap and scoring.scale == usual:
            return flashmask_attention(query, key, value, layout.row_ends, scoring), None
        return segment_attention(query, key, value, layout.segment_lengths, scoring), None

    def attend_turned(
        self, query: Tensor, key: Tensor, value: Tensor, past: Cache = None, **scoring: Any
    ) -> Tuple[Tensor, Cache]:
        """`attend` with rotary positions."""
        past_length = 0 if past is None else past[0].shape[1]
        cos, sin = self.layout.rotary(*query.shape[:2], past_length, query.dtype)
        return self.attend(rotate(query, cos, sin), rotate(key, cos, sin), value, past, **scoring)


def read_by_segments(model: nn.Layer, config: Dict[str, Any]) -> RowLayout:
    """Replace the attention of every layer, in place, by the function that the family names for it.

    That function is called as `function(layer, rows, *args, **kwargs)` with the arguments of the layer's own forward
    and a `LayerRows`, and returns what that forward returns.
    """
    family = FAMILIES[config["model_type"]]
    settings = {**config, **_built_with(model.config, family)}
    layout = RowLayout(paddle.get_device().startswith("gpu"), rope_of(settings))
    attention_class, function = (find_named(name) for name in family.attention)
    layers = [layer for layer in model.sublayers() if type(layer) is attention_class]
    for layer, window in zip(layers, attention_windows(settings)):
        layer.forward = _Forward(layer, LayerRows(layout, window), function)
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
        length = input_ids.shape[1]
        if not self._layout.goes_on(length - 1, 1):
            kwargs = {**kwargs, "past_key_values": None, "cache": None}
        return type(self._model).prepare_inputs_for_generation(self._model, input_ids, **kwargs)


def _built_with(config: Any, family: Family) -> Dict[str, Any]:
    """The keys of a family as the network has them; a config.json of PaddleNLP's may leave out its defaults."""
    names = {key: family.spelled.get(key, key) for key in family.keys}
    return {key: getattr(config, name) for key, name in names.items() if hasattr(config, name)}


class _Forward:
    def __init__(self, layer: nn.Layer, rows: LayerRows, function: Callable) -> None:
        self._layer = layer
        self._rows = rows
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._layer, self._rows, *args, **kwargs)


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
