"""The keys of LoRA and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import ABOVE_ZERO, DROPOUT, POSITIVE, Checked, NotYet, argument

_LORA = NotYet('plain LoRA is ("lora": true).')


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
        "rsLoRA: multiply by alpha / sqrt(rank).",
        "rsLoRA：乘以 alpha / sqrt(rank)。",
        aliases=("use_rslora",),
        not_yet=NotYet("set lora_alpha to alpha * sqrt(lora_rank) for the same scaling."),
        rows=(20, 51),
    )
    lora_plus_scale: float = argument(
        1.0,
        "LoRA+: learning rate of B over that of A.",
        "LoRA+：B 与 A 的学习率之比。",
        not_yet=NotYet("A and B share learning_rate."),
        rows=(18, 52),
    )
    pissa: bool = argument(
        False,
        "PiSSA: start from the largest singular vectors.",
        "PiSSA：从最大奇异向量开始。",
        not_yet=_LORA,
        rows=(19,),
    )
    lora_use_mixer: bool = argument(
        False, "MosLoRA: a mixer between A and B.", "MosLoRA：A 与 B 之间加混合矩阵。", not_yet=_LORA, rows=(24, 56)
    )
    use_mora: bool = argument(False, "MoRA: a square update.", "MoRA：方阵更新。", not_yet=_LORA)
    use_quick_lora: bool = argument(False, "A faster LoRA without dropout.", "无 dropout 的快速 LoRA。", not_yet=_LORA)
