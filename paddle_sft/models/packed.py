"""Let a model read rows of several samples: attention stays inside a segment, positions start at 0 in each."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.attention.segments import default_scale, flashmask_attention, segment_attention
from paddle_sft.masks.segments import position_ids, row_ends
from paddle_sft.models.families import attention_window
from paddle_sft.models.fast import rotate


class RowLayout:
    """The segments of the rows that are computed now; every attention layer of the model looks here.

    Set by the stage before a forward pass, and kept through its backward pass: recomputing asks again.
    """

    def __init__(self, window: int, on_gpu: bool) -> None:
        self.window = window
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
        """Back to what the model's own attention does (generation)."""
        self.segment_lengths = None

    def rotary(self, layer: nn.Layer, value: Tensor) -> Tuple[Tensor, Tensor]:
        """cos and sin [B, T, 1, D] of the rows' positions, looked up once for all layers."""
        if self._tables is None:
            found = layer.rotary_emb(value, seq_len=self._longest)
            tables = [table.reshape([-1, table.shape[-1]])[self.positions].unsqueeze(2) for table in found]
            self._tables = (tables[0].astype(value.dtype), tables[1].astype(value.dtype))
        return self._tables

    def attend(self, query: Tensor, key: Tensor, value: Tensor, slopes: Optional[Tensor] = None) -> Tensor:
        """[B, T, H, D], [B, T, G, D] twice -> [B, T, H, D]."""
        if self.on_gpu and slopes is None:
            return flashmask_attention(query, key, value, self.row_ends, self.window)
        scale = default_scale(query.shape[-1])
        return segment_attention(
            query, key, value, self.segment_lengths, scale=scale, window=self.window, slopes=slopes
        )


def read_by_segments(model: nn.Layer, config: Dict[str, Any]) -> RowLayout:
    """Replace the attention of every layer, in place; the layers' own is used again while `RowLayout` is cleared."""
    layout = RowLayout(attention_window(config), paddle.get_device().startswith("gpu"))
    layer_name, forward = _ATTENTION[config["model_type"]]
    module = import_module(type(model).__module__)
    attention_class = getattr(module, layer_name)
    for layer in model.sublayers():
        if type(layer) is attention_class:
            layer.forward = _Forward(layer, layout, forward)
    _leave_out_square_masks(model, layout)
    model.row_layout = layout
    return layout


def set_segments(model: nn.Layer, segment_lengths: Sequence[Sequence[int]]) -> None:
    """Tell the model which segments the next rows have.

    A model that was not prepared by `read_by_segments` reads whole rows only.

    Raises:
        ValueError: several segments in a row, for such a model.
    """
    if hasattr(model, "row_layout"):
        model.row_layout.set(segment_lengths)
    elif any(len(row) > 1 for row in segment_lengths):
        raise ValueError("this model reads one sample a row; call models.packed.read_by_segments first")


class _Forward:
    """An attention layer's forward: by segments while rows are set, the layer's own otherwise."""

    def __init__(self, layer: nn.Layer, layout: RowLayout, by_segments: Callable) -> None:
        self._layer = layer
        self._own = layer.forward
        self._layout = layout
        self._by_segments = by_segments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._layout.segment_lengths is None:
            return self._own(*args, **kwargs)
        return self._by_segments(self._layer, self._layout, *args, **kwargs)


def _rotary(layer: nn.Layer, layout: RowLayout, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """llama, qwen2, gemma."""
    projected = [layer.q_proj(hidden_states), layer.k_proj(hidden_states), layer.v_proj(hidden_states)]
    query, key, value = [tensor.reshape([0, 0, -1, layer.head_dim]) for tensor in projected]
    cos, sin = layout.rotary(layer, value)
    mixed = layout.attend(rotate(query, cos, sin), rotate(key, cos, sin), value)
    return layer.o_proj(mixed.reshape([0, 0, -1]))


def _mistral(layer: nn.Layer, layout: RowLayout, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple:
    return _rotary(layer, layout, hidden_states), None, None


def _bloom(layer: nn.Layer, layout: RowLayout, hidden_states: Tensor, residual: Tensor, *args: Any, **kw: Any) -> tuple:
    query, key, value = layer._split_heads(layer.query_key_value(hidden_states))
    mixed = layout.attend(query, key, value, _slopes(layer.num_heads, query.dtype))
    output = layer.dense(mixed.reshape([0, 0, -1]))
    return residual + nn.functional.dropout(output, layer.hidden_dropout, training=layer.training), None


def _slopes(num_heads: int, dtype: Any) -> Tensor:
    """ALiBi slopes [H] (Press et al. 2021, https://arxiv.org/abs/2108.12409): powers of 2**(-8 / H), H a power of two;
    the heads beyond the largest power of two below H take every other slope of twice as many heads."""
    whole = 2 ** int(np.floor(np.log2(num_heads)))
    slopes = [2 ** (-8.0 / whole * (head + 1)) for head in range(whole)]
    slopes += [2 ** (-4.0 / whole * (head + 1)) for head in range(0, 2 * (num_heads - whole), 2)]
    return paddle.to_tensor(slopes, dtype="float32").astype(dtype)


_ATTENTION: Dict[str, tuple] = {
    "llama": ("LlamaAttention", _rotary),
    "qwen2": ("Qwen2Attention", _rotary),
    "gemma": ("GemmaAttention", _rotary),
    "mistral": ("MistralAttention", _mistral),
    "bloom": ("BloomAttention", _bloom),
}


def _leave_out_square_masks(model: nn.Layer, layout: RowLayout) -> None:
    """PaddleNLP's models build a T x T mask before the first layer; by segments nobody reads it."""
    base = getattr(model, model.base_model_prefix)
    for name in ("_prepare_decoder_attention_mask", "_prepare_attn_mask"):
        own = getattr(base, name, None)
        if own is not None:
            setattr(base, name, _Skipped(own, layout))


class _Skipped:
    def __init__(self, own: Callable, layout: RowLayout) -> None:
        self._own = own
        self._layout = layout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._own(*args, **kwargs) if self._layout.segment_lengths is None else paddle.zeros([1])
