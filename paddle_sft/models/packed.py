"""How rows are read: attention stays inside a segment, positions start at 0 in each, generation goes on from a cache.

Every attention layer of a loaded model computes through here, never through PaddleNLP's own forward: that one ignores
sliding windows, and keeps a T x T mask a row.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.attention.segments import cached_attention, default_scale, flashmask_attention, segment_attention
from paddle_sft.masks.segments import position_ids, row_ends
from paddle_sft.models.catalogue import FAMILIES, attention_windows
from paddle_sft.models.family import find_named

Cache = Optional[Tuple[Tensor, Tensor]]
"""Keys and values [B, S, G, D] of the tokens before; None at the start of a row."""


class RowLayout:
    """The segments of the rows that are computed now; every attention layer of the model looks here.

    Set by the stage before a forward pass, and kept through its backward pass: recomputing asks again. While nothing is
    set (generation), a row is one segment without filling, which may go on from a cache.
    """

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.segment_lengths: Optional[List[List[int]]] = None
        self.positions: Optional[Tensor] = None
        self.row_ends: Optional[Tensor] = None
        self._longest = 0
        self._tables: Optional[Tuple[Tensor, Tensor]] = None

    def set(self, segment_lengths: Sequence[Sequence[int]]) -> None:
        """[B] rows of segment lengths, each adding up to T."""
        self.segment_lengths = [list(row) for row in segment_lengths]
        self.positions = paddle.to_tensor(np.stack([position_ids(row) for row in segment_lengths]).astype("int64"))
        self._longest = max(max(row) for row in segment_lengths)
        self._tables = None
        if self.on_gpu:
            ends = np.stack([row_ends(row) for row in segment_lengths]).astype("int32")
            self.row_ends = paddle.to_tensor(ends[:, None, :, None])

    def clear(self) -> None:
        """Whole rows again, with a cache if the model is asked to keep one."""
        self.segment_lengths = self.positions = self.row_ends = self._tables = None

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

    def rotary(self, layer: nn.Layer, value: Tensor, past: int = 0) -> Tuple[Tensor, Tensor]:
        """cos and sin [B, T, 1, D] of the rows' positions; while segments are set looked up once for all layers."""
        positions = self.where(value.shape[0], value.shape[1], past)
        if self._tables is not None:
            return self._tables
        longest = self._longest if self.segment_lengths else past + value.shape[1]
        found = layer.rotary_emb(value, seq_len=longest)
        tables = [table.reshape([-1, table.shape[-1]])[positions].unsqueeze(2) for table in found]
        both = (tables[0].astype(value.dtype), tables[1].astype(value.dtype))
        if self.segment_lengths is not None:
            self._tables = both
        return both


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
    ) -> Tuple[Tensor, Cache]:
        """Attention inside the segments, and what a following call needs as `past` (None while segments are set).

        Shapes: query [B, T, H, D], key and value [B, T, G, D] -> [B, T, H, D]. The other arguments are those of
        `attention.segments.segment_attention`.
        """
        layout, window = self.layout, self.window
        scale = default_scale(query.shape[-1]) if scale is None else scale
        if layout.segment_lengths is None:
            if past is not None:
                key, value = paddle.concat([past[0], key], axis=1), paddle.concat([past[1], value], axis=1)
            mixed = cached_attention(query, key, value, scale=scale, window=window, slopes=slopes, softcap=softcap)
            return mixed, (key, value)
        layout.where(query.shape[0], query.shape[1], 0)
        if layout.on_gpu and slopes is None and not softcap and scale == default_scale(query.shape[-1]):
            return flashmask_attention(query, key, value, layout.row_ends, window), None
        mixed = segment_attention(
            query, key, value, layout.segment_lengths, scale=scale, window=window, slopes=slopes, softcap=softcap
        )
        return mixed, None


def read_by_segments(model: nn.Layer, config: Dict[str, Any]) -> RowLayout:
    """Replace the attention of every layer, in place, by the function that the family names for it.

    That function is called as `function(layer, rows, *args, **kwargs)` with the arguments of the layer's own forward
    and a `LayerRows`, and returns what that forward returns.
    """
    layout = RowLayout(paddle.get_device().startswith("gpu"))
    family = FAMILIES[config["model_type"]]
    attention_class, function = (find_named(name) for name in family.attention)
    layers = [layer for layer in model.sublayers() if type(layer) is attention_class]
    for layer, window in zip(layers, attention_windows(config)):
        layer.forward = _Forward(layer, LayerRows(layout, window), function)
    _leave_out_square_masks(model)
    model.row_layout = layout
    return layout


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
    """
    Raises:
        ValueError: a mask that hides tokens: rows are read as they are, and a batch for generation has equal lengths.
    """
    if attention_mask is not None and attention_mask.ndim == 2 and not bool(attention_mask.astype("bool").all()):
        raise ValueError("this model reads rows without filling; generate for prompts of equal lengths together")
    return paddle.zeros([1])
