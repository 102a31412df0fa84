"""Attention with rotary positions as llama, qwen2 and gemma compute it."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

from paddle import Tensor, nn

from paddle_sft.models.fast import apply_linears
from paddle_sft.models.packed import Cache, LayerRows

Projected = Tuple[Tensor, Tensor, Tensor]
"""Queries [B, T, H, D], keys and values [B, T, G, D]."""
Projection = Callable[[nn.Layer, Tensor], Projected]


def project(layer: nn.Layer, hidden_states: Tensor) -> Projected:
    """[B, T, hidden] -> queries [B, T, H, D], keys and values [B, T, G, D]."""
    projected = apply_linears(hidden_states, layer.q_proj, layer.k_proj, layer.v_proj)
    # with sequence parallelism the tokens of all rows lie behind one another
    shape = [0, 0] if hidden_states.ndim == 3 else layer.row_layout.shape
    return tuple(tensor.reshape([*shape, -1, layer.head_dim]) for tensor in projected)


def mix(
    layer: nn.Layer,
    rows: LayerRows,
    hidden_states: Tensor,
    past: Cache,
    project: Projection = project,
    **scoring: Any,
) -> Tuple[Tensor, Cache]:
    """The layer's projections, rotary positions, attention and output projection.

    Args:
        scoring: of the family's attention, as `LayerRows.attend` takes it; attention_dropout is the config's.
    """
    if layer.training:
        scoring.setdefault("dropout", getattr(layer.config, "attention_dropout", 0.0) or 0.0)
    mixed, present = rows.attend_turned(*project(layer, hidden_states), past, **scoring)
    shape = [0, 0] if hidden_states.ndim == 3 else [-1]
    return layer.o_proj(mixed.reshape([*shape, mixed.shape[2] * mixed.shape[3]])), present


def attend_by(project: Projection) -> Callable:
    """The attention of a family with these projections, as `models.packed.read_by_segments` calls it."""

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
        output, present = mix(layer, rows, hidden_states, past_key_value, project)
        return (output, present) if use_cache and present is not None else output

    return attend


attend = attend_by(project)
