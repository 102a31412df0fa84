"""What the keys of attention and of a longer context do to a run's model, and what the plan says about it."""

from __future__ import annotations

from typing import Any, Dict

from paddle_sft.arguments.load import Arguments
from paddle_sft.arguments.model import ModelArguments
from paddle_sft.attention.paths import Wish
from paddle_sft.cli.report import Report
from paddle_sft.models.attention_plan import plan_attention
from paddle_sft.models.hub import LoadedModel
from paddle_sft.models.long_context import longest_text, scaled_positions

_HALF = {"bf16": "bfloat16", "fp16": "float16"}


def longer_context(model: ModelArguments, config: Dict[str, Any], place: str, report: Report) -> Dict[str, Any]:
    """The keys of config.json that change for a longer context, said in the plan; none of them without one."""
    if not model.use_long_sequence_strategies:
        return {}
    changes = scaled_positions(config, model.strategy_name, model.rope_scaling_factor, place)
    before, after = longest_text(config), longest_text({**config, **changes})
    said = f"{before:,} -> {after:,} tokens, {model.strategy_name}"
    if not changes:
        report.add("model", "context", f"{after:,} tokens", "unchanged: config.json says the same")
        return {}
    written = ", ".join(f"{key} {value}" for key, value in changes.items())
    report.add("model", "context", said, f"the result's config.json gets {written}")
    return changes


def say_attention(loaded: LoadedModel, arguments: Arguments, half_precision: str, dtype: str, report: Report) -> None:
    """Let the model compute attention as the arguments ask, and say in the plan how."""
    train, model = arguments.train, arguments.model
    wish = Wish(model.use_flash_attention, model.flash_mask)
    recomputes = train.recompute_granularity if train.recompute and train.recompute_granularity != "full" else ""
    is_packed = arguments.data.packing != "none"
    path, why = plan_attention(
        loaded.model, loaded.config, wish, _HALF.get(half_precision, dtype), is_packed, recomputes
    )
    report.add("device", "attention", path, why)
