"""The keys of the methods that change the model as a whole: prompts, prefixes, hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import Checked, NotYet, argument

_REFT = NotYet('use LoRA ("lora": true, with lora_rank, lora_dropout and lora_target_modules).')
_PREFIX = NotYet('use LoRA ("lora": true).')


@dataclass(frozen=True)
class ModelKeys(Checked):
    """Methods that change the model as a whole."""

    prefix_tuning: bool = argument(False, "Prefix tuning.", "前缀微调。", not_yet=_PREFIX)
    prefix_path: Optional[str] = argument(None, "Prefix folder to start from.", "作为起点的前缀目录。", not_yet=_PREFIX)
    num_prefix_tokens: int = argument(128, "Length of the prefix.", "前缀长度。", not_yet=_PREFIX)
    reft: bool = argument(
        False,
        "ReFT: edit hidden states at some positions.",
        "ReFT：在部分位置编辑隐藏状态。",
        not_yet=_REFT,
        rows=(25,),
    )
    layers: str = argument("all", "ReFT: layers.", "ReFT：层。", not_yet=_REFT, rows=(87,))
    position: str = argument(
        "f7",
        "ReFT: positions, f7 is the first 7 tokens.",
        "ReFT：位置，f7 为前 7 个 token。",
        not_yet=NotYet(_REFT.instead, off=("f7+l7",)),
        rows=(88,),
    )
    intervention_type: str = argument(
        "LoreftIntervention", "ReFT: kind of intervention.", "ReFT：干预类型。", not_yet=_REFT, rows=(89,)
    )
    rank: int = argument(
        8, "ReFT: rank (LoRA's is lora_rank).", "ReFT：秩（LoRA 用 lora_rank）。", not_yet=_REFT, rows=(90,)
    )
    act_fn: str = argument("linear", "ReFT: activation.", "ReFT：激活函数。", not_yet=_REFT, rows=(91,))
    add_bias: bool = argument(False, "ReFT: add a bias.", "ReFT：加偏置。", not_yet=_REFT, rows=(92,))
    dropout: float = argument(
        0.0,
        "ReFT: dropout (LoRA's is lora_dropout).",
        "ReFT：dropout（LoRA 用 lora_dropout）。",
        not_yet=_REFT,
        rows=(93,),
    )
