"""Which few weights are trained instead of all."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.adapter_linear import LinearKeys
from paddle_sft.arguments.adapter_lora import LoRAKeys
from paddle_sft.arguments.adapter_methods import METHODS
from paddle_sft.arguments.adapter_model import ModelKeys
from paddle_sft.arguments.adapter_weights import WeightKeys
from paddle_sft.arguments.fields import argument

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterArguments(ModelKeys, WeightKeys, LinearKeys, LoRAKeys):
    """The method that trains a few weights beside a frozen model, and what every method asks."""

    adapter: Optional[str] = argument(
        None,
        "Train an adapter of this method and freeze the model; null: every weight is trained.",
        "用该方法训练适配器，冻结模型；null：训练全部权重。",
        choices=tuple(METHODS),
        rows=(),
    )
    lora: bool = argument(False, "The same as adapter lora.", "等同于 adapter 为 lora。", rows=(16, 48, 186))
    lora_path: Optional[str] = argument(
        None,
        "Adapter folder to start from.",
        "作为起点的适配器目录。",
        aliases=("lokr_path", "vera_path", "prefix_path"),
        rows=(49,),
    )
    allow_other_base: bool = argument(
        False,
        "Put the adapter on a base of the same shapes and other weights than it was trained on; otherwise an error.",
        "允许把适配器用于形状相同但权重不同的基础模型；否则报错。",
        rows=(),
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
        "Layers trained in full beside the adapter, such as embed_tokens, lm_head or norm: a list (or comma list) of "
        "names, or a regular expression that matches the whole name.",
        "与适配器一起完整训练的层，如 embed_tokens、lm_head 或 norm：名字列表（或逗号分隔），或匹配全名的正则表达式。",
        aliases=("modules_to_save",),
        rows=(187,),
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
