"""The keys of LoRA and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional

from paddle_sft.arguments.fields import ABOVE_ZERO, DROPOUT, NOT_NEGATIVE, POSITIVE, Checked, argument


@dataclass(frozen=True)
class LoRAKeys(Checked):
    """LoRA (https://arxiv.org/abs/2106.09685): W + lora_alpha / lora_rank * A B, with W frozen."""

    lora_rank: int = argument(
        8,
        "Inner size r of the update; memory and trained weights grow linearly with it.",
        "更新的内部维度 r；内存与可训练权重随之线性增长。",
        aliases=("lora_r", "r"),
        bounds=POSITIVE,
        rows=(50, 143, 145, 188),
    )
    lora_alpha: Optional[float] = argument(
        None,
        "The update is multiplied by lora_alpha / lora_rank; null: 2 * lora_rank.",
        "更新乘以 lora_alpha / lora_rank；null：2 * lora_rank。",
        bounds=ABOVE_ZERO,
        rows=(50, 143, 145, 188),
    )
    lora_dropout: float = argument(
        0.0, "Dropout on the input of the update.", "更新输入上的 dropout。", bounds=DROPOUT, rows=(50, 143, 145)
    )
    rslora: bool = argument(
        False,
        "rsLoRA: multiply by lora_alpha / sqrt(lora_rank); lora_alpha null is then 4.",
        "rsLoRA：乘以 lora_alpha / sqrt(lora_rank)；此时 lora_alpha 为 null 即 4。",
        aliases=("use_rslora",),
        rows=(20, 51),
    )
    lora_plus_scale: float = argument(
        1.0,
        "LoRA+: learning rate of B over that of A.",
        "LoRA+：B 与 A 的学习率之比。",
        aliases=("loraplus_lr_ratio",),
        bounds=ABOVE_ZERO,
        rows=(18, 52),
    )
    rank_pattern: Dict[str, int] = argument(
        {},
        "Layers with a rank of their own, as an object: name (or expression that matches the whole name) -> rank.",
        "秩与众不同的层，写成对象：名字（或匹配全名的正则表达式）-> 秩。",
    )
    alpha_pattern: Dict[str, float] = argument(
        {},
        "Layers with a lora_alpha of their own: name (or expression that matches the whole name) -> alpha.",
        "lora_alpha 与众不同的层：名字（或匹配全名的正则表达式）-> alpha。",
    )
    use_dora: bool = argument(
        False,
        "The same as adapter dora: length and direction of the weights apart.",
        "等同于 adapter 为 dora：权重的长度与方向分开。",
    )
    pissa: bool = argument(
        False,
        "The same as adapter pissa: start from the largest singular vectors.",
        "等同于 adapter 为 pissa：从最大奇异向量开始。",
        rows=(19,),
    )
    pissa_niter: Optional[int] = argument(
        None,
        "PiSSA: find the singular vectors with so many subspace iterations, fast; null: exactly.",
        "PiSSA：用这么多次子空间迭代快速求奇异向量；null：精确求解。",
        bounds=NOT_NEGATIVE,
    )
    loftq: bool = argument(
        False,
        "LoftQ: start LoRA on a quantised base from what quantising has lost.",
        "LoftQ：在量化的基座上，LoRA 从量化损失的部分开始。",
    )
    lora_use_mixer: bool = argument(
        False,
        "The same as adapter moslora: a trained mixer between A and B.",
        "等同于 adapter 为 moslora：A 与 B 之间加可训练的混合矩阵。",
        rows=(24, 56),
    )
    use_mora: bool = argument(False, "The same as adapter mora: a square update.", "等同于 adapter 为 mora：方阵更新。")
    use_quick_lora: bool = argument(
        False,
        "Accepted and without effect: LoRA's fast path is always on.",
        "可以写，没有作用：LoRA 的快速路径总是开启。",
    )
