"""The keys of the other methods that change linear layers or choose which weights train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import Checked, NotYet, argument


@dataclass(frozen=True)
class LinearKeys(Checked):
    """Methods that change linear layers, beside the LoRA family."""

    vera: bool = argument(
        False,
        "VeRA: shared random matrices, trained vectors.",
        "VeRA：共享随机矩阵，训练向量。",
        not_yet=NotYet('use LoRA ("lora": true).'),
        rows=(22, 54),
    )
    vera_rank: int = argument(
        8, "Inner size of VeRA.", "VeRA 的内部维度。", not_yet=NotYet("use lora_rank with LoRA."), rows=(54,)
    )
    lokr: bool = argument(
        False,
        "LoKr: the update as a Kronecker product.",
        "LoKr：更新为 Kronecker 积。",
        not_yet=NotYet('use LoRA ("lora": true).'),
        rows=(23, 55),
    )
    lokr_rank: int = argument(
        8,
        "Inner size of LoKr.",
        "LoKr 的内部维度。",
        aliases=("lokr_dim",),
        not_yet=NotYet("use lora_rank with LoRA."),
        rows=(55,),
    )
    lokr_path: Optional[str] = argument(
        None, "LoKr folder to start from.", "作为起点的 LoKr 目录。", not_yet=NotYet("use lora_path with LoRA.")
    )
    spectrum_config_path: Optional[str] = argument(
        None,
        "Spectrum: file of layers chosen by signal-to-noise ratio.",
        "Spectrum：按信噪比选层的文件。",
        aliases=("spectrum",),
        not_yet=NotYet('train every weight ("lora": false) or use LoRA.', off=(False,)),
        rows=(167, 168),
    )
