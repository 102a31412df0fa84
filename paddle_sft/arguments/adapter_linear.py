"""The keys of the other methods that change linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import ABOVE_ZERO, NOT_NEGATIVE, POSITIVE, Bounds, Checked, argument

_FORGETTING = Bounds(minimum=0, maximum=1, strict_minimum=True, strict_maximum=True)


@dataclass(frozen=True)
class LinearKeys(Checked):
    """Methods that change linear layers, beside the LoRA family."""

    vera: bool = argument(False, "The same as adapter vera.", "等同于 adapter 为 vera。", rows=(22, 54))
    vera_rank: int = argument(
        8,
        "VeRA: inner size r of the random matrices that all layers share.",
        "VeRA：所有层共享的随机矩阵的内部维度 r。",
        bounds=POSITIVE,
        rows=(54,),
    )
    vera_d_initial: float = argument(
        0.1, "VeRA: first value of the vector d.", "VeRA：向量 d 的初值。", aliases=("d_initial",)
    )
    lokr: bool = argument(False, "The same as adapter lokr.", "等同于 adapter 为 lokr。", rows=(23, 55))
    lokr_rank: int = argument(
        8,
        "LoKr: inner size of a factor that is a product of two.",
        "LoKr：以两个矩阵之积表示的因子的内部维度。",
        aliases=("lokr_dim",),
        bounds=POSITIVE,
        rows=(55,),
    )
    lokr_alpha: float = argument(
        16.0, "LoKr: the update is multiplied by alpha / rank.", "LoKr：更新乘以 alpha / rank。", bounds=ABOVE_ZERO
    )
    lokr_factor: int = argument(
        -1,
        "LoKr: size of the small factor's sides, or the largest divisor below it; -1: as near to the root as can be.",
        "LoKr：小因子的边长，或不超过它的最大约数；-1：尽量接近平方根。",
        aliases=("decompose_factor",),
        bounds=Bounds(minimum=1, also=(-1,)),
    )
    lokr_decompose_both: bool = argument(
        False,
        "LoKr: the small factor, too, is a product where that has fewer numbers.",
        "LoKr：小因子也在参数更少时表示为乘积。",
        aliases=("decompose_both",),
    )
    loha_rank: int = argument(
        8, "LoHa: inner size r of both products.", "LoHa：两个乘积的内部维度 r。", bounds=POSITIVE
    )
    loha_alpha: float = argument(
        16.0, "LoHa: the update is multiplied by alpha / rank.", "LoHa：更新乘以 alpha / rank。", bounds=ABOVE_ZERO
    )
    adalora_init_r: int = argument(
        12, "AdaLoRA: rank at the start.", "AdaLoRA：起始秩。", aliases=("init_r",), bounds=POSITIVE, rows=(214,)
    )
    adalora_target_r: int = argument(
        8,
        "AdaLoRA: average rank at the end.",
        "AdaLoRA：结束时的平均秩。",
        aliases=("target_r",),
        bounds=POSITIVE,
        rows=(214,),
    )
    adalora_alpha: float = argument(
        32.0,
        "AdaLoRA: the update is multiplied by alpha / init_r.",
        "AdaLoRA：更新乘以 alpha / init_r。",
        bounds=ABOVE_ZERO,
    )
    adalora_tinit: Optional[int] = argument(
        None,
        "AdaLoRA: steps before the first cut; null: a tenth of all.",
        "AdaLoRA：首次裁剪前的步数；null：全部的十分之一。",
        aliases=("tinit",),
        bounds=NOT_NEGATIVE,
    )
    adalora_tfinal: Optional[int] = argument(
        None,
        "AdaLoRA: steps after the last cut; null: three tenths of all.",
        "AdaLoRA：最后一次裁剪后的步数；null：全部的十分之三。",
        aliases=("tfinal",),
        bounds=NOT_NEGATIVE,
    )
    adalora_delta_t: int = argument(
        10, "AdaLoRA: steps from cut to cut.", "AdaLoRA：两次裁剪之间的步数。", aliases=("deltaT",), bounds=POSITIVE
    )
    adalora_beta1: float = argument(
        0.85, "AdaLoRA: average of the sensitivity.", "AdaLoRA：敏感度的平均系数。", bounds=_FORGETTING
    )
    adalora_beta2: float = argument(
        0.85, "AdaLoRA: average of the uncertainty.", "AdaLoRA：不确定度的平均系数。", bounds=_FORGETTING
    )
    adalora_orth_weight: float = argument(
        0.5,
        "AdaLoRA: weight of the penalty that keeps P and Q orthogonal.",
        "AdaLoRA：使 P、Q 保持正交的惩罚项权重。",
        aliases=("orth_reg_weight",),
        bounds=NOT_NEGATIVE,
    )
    oft_block_size: int = argument(
        32,
        "OFT: side of the orthogonal blocks; where it doesn't divide an input size, the nearest divisor.",
        "OFT：正交块的边长；不能整除输入维度时取最接近的约数。",
        bounds=Bounds(minimum=2),
    )
    oft_neumann_terms: int = argument(
        5,
        "OFT: terms of the series for the inverse in Cayley's transform; 0: the inverse itself.",
        "OFT：Cayley 变换中以级数代替逆矩阵的项数；0：直接求逆。",
        bounds=Bounds(minimum=4, also=(0,)),
    )
    bottleneck_size: int = argument(
        64, "Bottleneck adapter: inner size.", "瓶颈适配器：内部维度。", bounds=POSITIVE, rows=(135, 217)
    )
    bottleneck_activation: str = argument(
        "gelu",
        "Bottleneck adapter: activation.",
        "瓶颈适配器：激活函数。",
        choices=("gelu", "relu", "silu", "tanh"),
        rows=(135, 217),
    )
