"""Quantised base weights. No part of it is available yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import Checked, Choices, NotYet, argument

_QUANT = NotYet('train a LoRA on bfloat16 weights ("lora": true, "bf16": true).')


@dataclass(frozen=True)
class QuantArguments(Checked):
    """How the frozen base of an adapter is stored."""

    weight_quantize_algo: Optional[str] = argument(
        None,
        "Store frozen weights in 4 or 8 bits (QLoRA).",
        "以 4 或 8 比特保存冻结的权重（QLoRA）。",
        choices=Choices(("weight_only_int4", "weight_only_int8", "nf4", "fp4")),
        not_yet=_QUANT,
        rows=(9, 10, 17, 57, 165, 186),
    )
    weight_blocksize: int = argument(64, "Weights that share one scale.", "共用一个缩放系数的权重数。", not_yet=_QUANT)
    weight_double_quant: bool = argument(False, "Quantise the scales as well.", "缩放系数也量化。", not_yet=_QUANT)
    weight_double_quant_block_size: int = argument(
        256, "Scales that share one scale.", "共用一个缩放系数的缩放系数数。", not_yet=_QUANT
    )
