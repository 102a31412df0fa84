"""Which few weights are trained instead of all."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.fields import ABOVE_ZERO, DROPOUT, POSITIVE, Checked, NotYet, argument

ALL_LINEAR = "all-linear"
_LORA = NotYet('plain LoRA is ("lora": true).')
_REFT = NotYet('use LoRA ("lora": true, with lora_rank, lora_dropout and lora_target_modules).')
_PREFIX = NotYet('use LoRA ("lora": true).')


@dataclass(frozen=True)
class AdapterArguments(Checked):
    """LoRA (https://arxiv.org/abs/2106.09685): W + lora_alpha / lora_rank * A B, with W frozen."""

    lora: bool = argument(
        False, "Train a LoRA adapter and freeze the model.", "训练 LoRA 适配器，冻结模型。", rows=(16, 48, 186)
    )
    lora_path: Optional[str] = argument(None, "Adapter folder to start from.", "作为起点的适配器目录。", rows=(49,))
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
    lora_target_modules: Optional[Union[str, List[str]]] = argument(
        None,
        "Layers that get an update: a list (or comma list) of names, a regular expression that matches the whole name, "
        "or all-linear; null: the family's default.",
        "加更新的层：名字列表（或逗号分隔）、匹配全名的正则表达式，或 all-linear；null：该模型族的默认值。",
        aliases=("lora_target", "target_modules"),
        rows=(50, 142, 156, 186),
    )
    lora_modules_to_save: Optional[Union[str, List[str]]] = argument(
        None,
        "Layers trained in full beside the adapter.",
        "与适配器一起完整训练的层。",
        aliases=("modules_to_save",),
        not_yet=NotYet('list linear layers in lora_target_modules, or train every weight ("lora": false).', off=([],)),
        rows=(187,),
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
    spectrum_config_path: Optional[str] = argument(
        None,
        "Spectrum: file of layers chosen by signal-to-noise ratio.",
        "Spectrum：按信噪比选层的文件。",
        aliases=("spectrum",),
        not_yet=NotYet('train every weight ("lora": false) or use LoRA.', off=(False,)),
        rows=(167, 168),
    )


def read_targets(given: Union[str, List[str], None]) -> Union[str, List[str], None]:
    """Turn lora_target_modules as written into null, all-linear, a list of names, or a regular expression.

    "q_proj", "q_proj,v_proj" and '["q_proj", "v_proj"]' are lists of names; any other text, such as
    ".*layers.[0-9]{1,2}.q_proj", is a regular expression.

    Raises:
        ValueError: an empty list or name, or a regular expression that does not compile.
    """
    if given is None or given == ALL_LINEAR:
        return given
    if isinstance(given, str):
        given = _split(given)
    if isinstance(given, str):
        try:
            re.compile(given)
        except re.error as error:
            raise ValueError(f"{given!r} is not a regular expression ({error})") from None
        return given
    if not given or not all(name.strip() for name in given):
        raise ValueError("names no layer; list layer names, or write null for the family's default")
    return given


def _split(text: str) -> Union[str, List[str]]:
    """A list of names when the text is one, else the text."""
    if text.startswith("["):
        try:
            names = json.loads(text)
        except ValueError:
            return text
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else text
    names = [name.strip() for name in text.split(",")]
    return names if all(re.fullmatch(r"[\w.-]*", name) for name in names) else text
