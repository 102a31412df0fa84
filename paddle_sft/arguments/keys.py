"""All keys of each command, and every other spelling under which a document names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Dict, List, Mapping, Optional, Tuple

from paddle_sft.arguments import upstream_policy
from paddle_sft.arguments.combine import CombineArguments
from paddle_sft.arguments.export import ExportArguments
from paddle_sft.arguments.fields import Choices, Key, NotYet, keys_of
from paddle_sft.arguments.generate import GenerateCommandArguments
from paddle_sft.arguments.merge import MergeArguments
from paddle_sft.arguments.owners import OWNERS
from paddle_sft.arguments.quantize import QuantizeArguments
from paddle_sft.arguments.upstream_table import UPSTREAM

UPSTREAM_GROUP = "upstream"


@dataclass(frozen=True)
class Translation:
    """A key of another document whose value means a value of one of our keys."""

    target: str
    hint: Any
    meaning: Mapping[Any, Any]
    """Their value -> our value of `target`."""
    help: str
    zh: str
    silent: Tuple[Any, ...] = ()
    """Their values that say nothing about `target`."""
    refused: Mapping[Any, str] = field(default_factory=dict)
    rows: Tuple[int, ...] = ()
    others: Mapping[Any, str] = field(default_factory=dict)
    """Their value -> the key it sets, where that is not `target`."""


TRANSLATIONS: Dict[str, Translation] = {
    "finetuning_type": Translation(
        "lora",
        str,
        {"lora": True, "full": False, "freeze": True},
        "lora: the same as lora true; full: the same as lora false; freeze: the same as freeze true.",
        "lora：等同于 lora true；full：等同于 lora false；freeze：等同于 freeze true。",
        others={"freeze": "freeze"},
        rows=(155,),
    ),
    "use_peft": Translation(
        "lora", bool, {True: True, False: False}, "The same as lora.", "等同于 lora。", rows=(186,)
    ),
    "quantization_bit": Translation(
        "weight_quantize_algo",
        Optional[int],
        {4: "nf4", 8: "weight_only_int8"},
        "4: weight_quantize_algo nf4; 8: weight_only_int8.",
        "4：weight_quantize_algo 为 nf4；8：weight_only_int8。",
        silent=(None,),
        rows=(165,),
    ),
    "load_in_4bit": Translation(
        "weight_quantize_algo",
        bool,
        {True: "nf4"},
        "true: weight_quantize_algo nf4.",
        "true：weight_quantize_algo 为 nf4。",
        silent=(False,),
        rows=(186,),
    ),
    "load_in_8bit": Translation(
        "weight_quantize_algo",
        bool,
        {True: "weight_only_int8"},
        "true: weight_quantize_algo weight_only_int8.",
        "true：weight_quantize_algo 为 weight_only_int8。",
        silent=(False,),
        rows=(186,),
    ),
    "attn_implementation": Translation(
        "use_flash_attention",
        Optional[str],
        {"flash_attention_2": True, "eager": False},
        "flash_attention_2: the same as use_flash_attention true; eager: false.",
        "flash_attention_2：等同于 use_flash_attention true；eager：false。",
        silent=(None,),
        refused={"sdpa": "write eager", "flash_attention_3": "write eager", "flex_attention": "write eager"},
        rows=(184,),
    ),
    "mix_strategy": Translation(
        "mixing_exhausted",
        str,
        {"interleave_under": "stop", "interleave_over": "repeat"},
        "interleave_under: mixing_exhausted stop; interleave_over: repeat; concat: nothing is mixed.",
        "interleave_under：mixing_exhausted 为 stop；interleave_over：repeat；concat：不混合。",
        silent=("concat",),
        refused={"interleave_once": "concat, too, gives every sample once in an epoch"},
        rows=(209,),
    ),
    "train_files": Translation(
        "dataset_name_or_path",
        List[str],
        {},
        "One path: the same as dataset_name_or_path.",
        "一个路径：等同于 dataset_name_or_path。",
        rows=(115,),
    ),
}


@dataclass(frozen=True)
class Catalogue:
    """The keys of one command, and the other spellings that lead to them."""

    keys: Mapping[str, Key]
    translations: Mapping[str, Translation]
    aliases: Mapping[str, str]
    """Other spelling -> key."""

    def spellings(self) -> List[str]:
        """Everything a user may write."""
        return [*self.keys, *self.aliases, *self.translations]

    def find(self, written: str) -> Optional[Key]:
        """The key a spelling without a meaning of its own leads to, None when there is none."""
        return self.keys.get(self.aliases.get(written, written))


def _catalogue(keys: Dict[str, Key], translations: Mapping[str, Translation]) -> Catalogue:
    aliases = {alias: key.name for key in keys.values() for alias in key.aliases}
    return Catalogue(keys, translations, aliases)


@lru_cache(maxsize=None)
def finetune_catalogue() -> Catalogue:
    """Keys of run_finetune.py: ours, then the rest of PaddleNLP's TrainingArguments."""
    keys: Dict[str, Key] = {}
    for group, owner in OWNERS.items():
        keys.update(keys_of(owner, group))
    aliases = {alias for key in keys.values() for alias in key.aliases}
    for name, known in UPSTREAM.items():
        if name not in keys and name not in aliases:
            instead = upstream_policy.REFUSED.get(name)
            keys[name] = Key(
                name=name,
                group=UPSTREAM_GROUP,
                hint=known.hint,
                default=known.default,
                help=f"PaddleNLP's TrainingArguments. {_upstream_note(name)}",
                choices=Choices(known.choices),
                not_yet=NotYet(instead + ".") if instead else None,
            )
    return _catalogue(keys, TRANSLATIONS)


def _upstream_note(name: str) -> str:
    if name in upstream_policy.PASSED_ON:
        return "Passed on as written."
    if name in upstream_policy.KEPT_ANYWAY:
        return f"Accepted; {upstream_policy.KEPT_ANYWAY[name]}."
    return "Accepted at its default only."


COMMANDS: Dict[str, Tuple[type, str]] = {
    "merge_lora_params.py": (MergeArguments, "merge"),
    "paddle-sft generate": (GenerateCommandArguments, "generate"),
    "paddle-sft quantize": (QuantizeArguments, "quantize"),
    "paddle-sft combine": (CombineArguments, "combine"),
    "paddle-sft export": (ExportArguments, "export"),
}
"""The other commands with arguments of this kind -> who owns them, and their group."""


@lru_cache(maxsize=None)
def command_catalogue(command: str) -> Catalogue:
    """Keys of one of COMMANDS."""
    return _catalogue(keys_of(*COMMANDS[command]), {})
