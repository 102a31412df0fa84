"""What the keys of a step say about each other: attention, longer context, recomputing, steps that are not finite."""

from __future__ import annotations

from typing import Iterator

from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.model import STRATEGIES


def derive_step(draft: Draft) -> None:
    """The one type that a strategy may have."""
    if draft["use_long_sequence_strategies"] and draft["strategy_type"] is None:
        draft.derive("strategy_type", "embedding_strategies", "use_long_sequence_strategies is true")


def check_attention(draft: Draft) -> Iterator[Problem]:
    """FlashMask is a way to compute packed rows, by the FlashAttention kernel."""
    if not draft["flash_mask"]:
        return
    if draft["use_flash_attention"] is False:
        yield (
            ("flash_mask", "use_flash_attention"),
            "flash_mask is true but use_flash_attention is false, and FlashMask is a mask of that kernel; "
            'set "use_flash_attention": true, or leave flash_mask out',
        )
    if draft["packing"] == "none":
        yield (
            ("flash_mask", "packing"),
            "flash_mask is true but packing is none: a row of one sample needs no mask; "
            'add "packing": "best_fit", or leave flash_mask out',
        )


def check_long_context(draft: Draft) -> Iterator[Problem]:
    """A strategy has a name and a factor above 1."""
    name, factor = draft["strategy_name"], draft["rope_scaling_factor"]
    if not draft["use_long_sequence_strategies"]:
        for key, default in (("strategy_type", None), ("strategy_name", None), ("rope_scaling_factor", 1.0)):
            if draft[key] != default:
                yield (
                    (key, "use_long_sequence_strategies"),
                    f"{key} is {draft[key]} but use_long_sequence_strategies is off; "
                    f'add "use_long_sequence_strategies": true or leave {key} out',
                )
        return
    if name is None:
        yield (
            ("use_long_sequence_strategies", "strategy_name"),
            f"use_long_sequence_strategies is true but strategy_name is missing; give one of {', '.join(STRATEGIES)}",
        )
    elif name == "RotaryEmbedding" and factor != 1:
        yield (
            ("strategy_name", "rope_scaling_factor"),
            f"strategy_name RotaryEmbedding scales nothing, and rope_scaling_factor is {factor:g}; "
            f"name one of {', '.join(STRATEGIES[1:])}, or leave the factor out",
        )
    elif name != "RotaryEmbedding" and factor == 1:
        yield (
            ("strategy_name", "rope_scaling_factor"),
            f"strategy_name is {name} but rope_scaling_factor is 1, which extends nothing; give how many times longer "
            "the context becomes, such as 4",
        )


def check_recompute(draft: Draft) -> Iterator[Problem]:
    if draft["recompute_granularity"] != "full" and not draft["recompute"]:
        yield (
            ("recompute_granularity", "recompute"),
            f"recompute_granularity is {draft['recompute_granularity']} but recompute is off; "
            'add "recompute": true or leave recompute_granularity out',
        )


def check_nonfinite(draft: Draft) -> Iterator[Problem]:
    if draft["max_nonfinite_steps"] != 5 and draft["nonfinite_step"] != "skip":
        yield (
            ("max_nonfinite_steps", "nonfinite_step"),
            f"max_nonfinite_steps is {draft['max_nonfinite_steps']} but nonfinite_step is {draft['nonfinite_step']}; "
            'set "nonfinite_step": "skip" or leave max_nonfinite_steps out',
        )
