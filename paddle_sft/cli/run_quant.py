"""The quantised base of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from paddle_sft.adapters.state import ADAPTER_CONFIG, read_adapter
from paddle_sft.arguments.quant import QuantArguments
from paddle_sft.cli.report import Report
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.quantised import plan_lines, schemes_of
from paddle_sft.models.stored_schemes import summary
from paddle_sft.parallel.groups import Groups
from paddle_sft.quant.aware import QAT_TYPES
from paddle_sft.quant.choice import AsTrained, Choice
from paddle_sft.train.aware_weights import AwareWeights
from paddle_sft.train.weights import FullWeights

SECTION = "base weights"


def choice_of(arguments: QuantArguments) -> Optional[Choice]:
    """How linear layers are quantised; None where the user asks for nothing."""
    if arguments.weight_quantize_algo is None:
        return None
    block = arguments.weight_blocksize
    return Choice(
        arguments.weight_quantize_algo,
        0 if block == -1 else block,
        arguments.weight_double_quant,
        arguments.weight_double_quant_block_size,
    )


def as_trained(adapter: Optional[Path]) -> Optional[AsTrained]:
    """The base of an adapter as the adapter's training had it; None for a base of floats, or no adapter."""
    if adapter is None or not (adapter / ADAPTER_CONFIG).is_file():
        return None
    schemes = read_adapter(adapter).schemes
    return AsTrained(schemes) if schemes else None


def describe_base(model: Any, place: str, trains_all: bool, adapter: Optional[Path], report: Report) -> None:
    """Show how the base is stored, and how that differs from what an adapter to start from was trained on.

    Args:
        trains_all: the run changes every weight.
        adapter: folder of the adapter that the run starts from.

    Raises:
        ArgumentError: every weight is to be trained, and some are codes.
    """
    report.section(SECTION, plan_lines(model))
    schemes = schemes_of(model)
    if schemes and trains_all:
        raise ArgumentError(
            f"{place} is quantised ({summary(schemes)}): its weights are frozen codes, which full fine-tuning can't "
            'change; train an adapter ("lora": true), or give the float model it was made from'
        )
    is_ours = adapter is not None and (adapter / ADAPTER_CONFIG).is_file()
    before = dict(read_adapter(adapter).schemes) if is_ours else schemes
    if before != schemes:
        why = f"it was trained on a base in {summary(before) or 'floats'}; here it meets {summary(schemes) or 'floats'}"
        report.add(SECTION, "adapter", str(adapter), why)


def with_awareness(
    weights: FullWeights, arguments: QuantArguments, groups: Optional[Groups], report: Report
) -> FullWeights:
    """The same weights, computed with rounded numbers where the user asks for quantisation-aware training."""
    if arguments.qat is None:
        return weights
    ranks = None if groups is None else groups.data
    found = AwareWeights(weights.model, weights.tokenizer_folder, weights.trained, arguments.qat, ranks)
    bits, with_inputs = QAT_TYPES[arguments.qat]
    words = f"weights rounded to {bits} bits" + (", inputs to 8" if with_inputs else "")
    report.section("quantisation-aware training", {arguments.qat: (words, "of all linear layers")})
    return found
