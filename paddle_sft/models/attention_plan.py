"""How the attention of a loaded model is going to be computed, as the start-up plan says it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Tuple

from paddle_sft.attention.paths import KERNEL, Demand, Wish, choose_path
from paddle_sft.models.catalogue import FAMILIES, attention_windows
from paddle_sft.operators.build import load_operators


def head_size(config: Dict[str, Any]) -> int:
    """Numbers of an attention head, under whatever names a family's config has them."""
    width = config.get("hidden_size") or config.get("n_embd")
    heads = config.get("num_attention_heads") or config.get("n_head")
    return int(config.get("head_dim") or width // heads)


def plan_attention(
    model: Any, config: Dict[str, Any], wish: Wish, dtype: str, is_packed: bool, recomputes: str = ""
) -> Tuple[str, str]:
    """Let a model compute attention as asked, and say how: (the way, why).

    Args:
        config: as `models.config.read_config` gives it.
        dtype: what its products are computed in.
        is_packed: whether rows hold several samples.
        recomputes: core_attn, full_attn or nothing (see `RowLayout`).
    """
    layout = model.row_layout
    layout.wish, layout.recomputes = wish, recomputes
    has_operators = not layout.machine.on_gpu and dtype == "float32" and load_operators() is not None
    machine = replace(layout.machine, has_operators=has_operators)
    beyond = FAMILIES[config["model_type"]].beyond_kernels(config)
    path, why = choose_path(wish, machine, Demand(dtype, head_size(config), beyond, is_packed))
    windows = sorted({window for window in attention_windows(config) if window})
    if windows:
        why += f"; sliding window of {' and '.join(f'{window:,}' for window in windows)} tokens"
    if path != KERNEL and (wish.use_flash_attention or wish.flash_mask):
        why += "; the numbers are those of the kernel"
    return path, why
