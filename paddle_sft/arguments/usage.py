"""The text of --help and of paddle-sft explain."""

from __future__ import annotations

import textwrap
from typing import Any, Dict, List

from paddle_sft.arguments.fields import Key, listed
from paddle_sft.arguments.keys import UPSTREAM_GROUP, Catalogue, Translation
from paddle_sft.arguments.values import describe, show

TITLES = {
    "model": "Model",
    "data": "Data",
    "adapter": "Adapter",
    "quant": "Quantisation",
    "train": "Training",
    "parallel": "Parallel",
    "generate": "Generation",
    "merge": "Merge",
    "quantize": "Quantise",
    "combine": "Combine",
    "export": "Export",
    UPSTREAM_GROUP: "Other keys of PaddleNLP's TrainingArguments",
}


def grouped(catalogue: Catalogue) -> Dict[str, List[Key]]:
    """Group -> its keys, in order."""
    groups: Dict[str, List[Key]] = {}
    for key in catalogue.keys.values():
        groups.setdefault(key.group, []).append(key)
    return groups


def usage(catalogue: Catalogue, command: str) -> str:
    """Every key by group, one line each; those not available yet by name only."""
    lines = [f"usage: {command}", "", "Keys stand in a JSON or YAML file or as --key value, which wins."]
    for group, keys in grouped(catalogue).items():
        lines += ["", f"{TITLES[group]}:"]
        for key in keys:
            if key.available:
                meaning = f"{first_sentence(key.help)} [{show(key.default)}]"
                lines += textwrap.wrap(f"--{key.name}  {meaning}", 110, initial_indent="  ", subsequent_indent="      ")
        later = [key.name for key in keys if not key.available]
        if later:
            text = f"not available yet, accepted where they are off: {', '.join(later)}"
            lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="      ")
    lines += ["", "paddle-sft explain KEY tells all about one key."]
    return "\n".join(lines)


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence."""
    return text.split(". ")[0].rstrip(".") + "."


def explain_key(key: Key, catalogue: Catalogue) -> str:
    """All about one key."""
    lines = [f"{key.name}: {key.help}", f"  type       {describe(key.hint)}", f"  default    {show(key.default)}"]
    if key.choices.allowed:
        lines.append(f"  choices    {listed(key.choices.allowed)}")
    if key.choices.synonyms:
        lines.append(f"  also       {', '.join(f'{a} means {b}' for a, b in key.choices.synonyms.items())}")
    if key.choices.refused:
        lines.append(f"  not yet    {', '.join(key.choices.refused)}")
    if key.bounds:
        lines.append(f"  range      {key.bounds.describe()}")
    aliases = [*key.aliases, *(name for name, item in catalogue.translations.items() if item.target == key.name)]
    if aliases:
        lines.append(f"  aliases    {', '.join(aliases)}")
    lines.append(f"  group      {TITLES[key.group]}")
    if key.not_yet:
        off = " or ".join(show(value) for value in key.off_values)
        lines.append(f"  available  not yet; accepted at {off} only. Until then: {key.not_yet.instead}")
    else:
        lines.append("  available  yes")
    return "\n".join(lines)


def explain_translation(name: str, translation: Translation) -> str:
    """All about another document's key that is turned into one of ours."""
    lines = [f"{name}: {translation.help}", f"  type       {describe(translation.hint)}"]
    values: List[Any] = [*translation.meaning, *translation.silent]
    if values:
        lines.append(f"  choices    {', '.join(show(value) for value in values)}")
    if translation.refused:
        lines.append(f"  not yet    {', '.join(show(value) for value in translation.refused)}")
    lines.append(f"  sets       {translation.target}")
    return "\n".join(lines)
