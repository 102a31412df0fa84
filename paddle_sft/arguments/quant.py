"""Quantised base weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Union

from paddle_sft.arguments.fields import POSITIVE, POSITIVE_OR_OFF, Checked, argument

ALGORITHMS = ("weight_only_int8", "weight_only_int4", "nf4", "fp4")
"""The names in quant.levels.LEVELS, which needs numpy; a test compares them."""

QAT_TYPES = ("a8w8", "a8w4", "weight_only_int8", "weight_only_int4")
"""The names in quant.aware.QAT_TYPES, which needs paddle; a test compares them."""


@dataclass(frozen=True)
class CodecKeys(Checked):
    """How linear layers are stored in 4 or 8 bits."""

    weight_quantize_algo: Optional[Union[str, Dict[str, Any]]] = argument(
        None,
        "Store the linear layers of the frozen base in 4 or 8 bits: weight_only_int8, weight_only_int4, nf4 or fp4; or "
        "an object of such a name -> list of layers (names or regular expressions); layers in no list stay floats.",
        "以 4 或 8 比特保存冻结基座的线性层：weight_only_int8、weight_only_int4、nf4 或 fp4；"
        "或一个对象：算法名 -> 层的列表（名字或正则表达式），未列出的层保持不变。",
        rows=(9, 10, 17, 57, 165, 186),
    )
    weight_blocksize: Optional[int] = argument(
        None,
        "Weights that share one scale, along the inputs of a layer; -1: an output channel. null: 64 for nf4 and fp4, "
        "an output channel for the others.",
        "沿输入方向共用一个缩放系数的权重数；-1：一个输出通道。null：nf4 与 fp4 为 64，其余为一个输出通道。",
        bounds=POSITIVE_OR_OFF,
    )
    weight_double_quant: bool = argument(
        False,
        "Store the scales in 8 bits as well.",
        "缩放系数也以 8 比特保存。",
        aliases=("double_quantization", "bnb_4bit_use_double_quant"),
    )
    weight_double_quant_block_size: int = argument(
        256, "Scales that share one scale.", "共用一个缩放系数的缩放系数数。", bounds=POSITIVE
    )


@dataclass(frozen=True)
class QuantArguments(CodecKeys):
    """How the frozen base of an adapter is stored (QLoRA, https://arxiv.org/abs/2305.14314), or what all weights are
    prepared for."""

    qat: Optional[str] = argument(
        None,
        "Quantisation-aware training of all weights: linear layers compute with rounded weights (and 8-bit inputs: "
        "a8w8, a8w4), so that paddle-sft quantize loses less afterwards.",
        "对全部权重做量化感知训练：线性层以取整后的权重（a8w8、a8w4 时输入也为 8 比特）计算，"
        "之后 paddle-sft quantize 的损失更小。",
        choices=QAT_TYPES,
        aliases=("quantization_aware_training",),
        rows=(10, 216),
    )
