"""One source of arguments (a file, or the command line) -> checked values under our names, all problems collected."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Dict, List, Mapping, Optional, Tuple

from paddle_sft.arguments.fields import Key, limit_problems, listed
from paddle_sft.arguments.files import Pairs
from paddle_sft.arguments.keys import Catalogue, Translation
from paddle_sft.arguments.values import read_value, read_words, show


@dataclass(frozen=True)
class Given:
    """One value that the user gave."""

    value: Any
    written: str
    """The spelling the user chose."""
    source: str
    why: str = ""
    """Not empty when the value was translated from another document's key or value."""


@dataclass
class Layer:
    """What one source says. `broken` are keys whose value could not be read."""

    source: str
    given: Dict[str, Given] = field(default_factory=dict)
    problems: List[str] = field(default_factory=list)
    broken: List[str] = field(default_factory=list)


def layer_of_file(pairs: Pairs, source: str, catalogue: Catalogue) -> Layer:
    """Read the pairs of an argument file."""
    layer = Layer(source)
    for written, value in _flattened(pairs, catalogue):
        _add(layer, written, value, catalogue, read_value)
    return layer


def layer_of_words(words: Tuple[Tuple[str, Tuple[str, ...]], ...], catalogue: Catalogue) -> Layer:
    """Read the --key value words of a command line."""
    layer = Layer("command line")
    for written, group in _grouped(words, catalogue):
        nested = _nested_object(written, group, catalogue)
        if nested is None:
            _add(layer, written, list(group), catalogue, read_words)
            continue
        for inner, value in _flattened([(written, nested)], catalogue):
            _add(layer, inner, value, catalogue, read_value)
    return layer


def _flattened(pairs: Pairs, catalogue: Catalogue) -> Pairs:
    """{"a": {"b": 1}} becomes "a.b": 1 where a.b is a spelling we know; "a": null then says nothing."""
    groups = {spelling.split(".")[0] for spelling in catalogue.spellings() if "." in spelling}
    flat: Pairs = []
    for written, value in pairs:
        if written in groups and isinstance(value, Mapping):
            flat.extend((f"{written}.{inner}", item) for inner, item in value.items())
        elif not (written in groups and value is None):
            flat.append((written, value))
    return flat


def _grouped(words: Tuple[Tuple[str, Tuple[str, ...]], ...], catalogue: Catalogue) -> List[Tuple[str, Tuple[str, ...]]]:
    """A repeated --key of a list holds all its words: --report_to wandb --report_to visualdl."""
    grouped: List[Tuple[str, Tuple[str, ...]]] = []
    for written, group in words:
        key = catalogue.find(written)
        earlier = [index for index, (name, _) in enumerate(grouped) if name == written]
        if earlier and key is not None and "List" in str(key.hint):
            grouped[earlier[0]] = (written, grouped[earlier[0]][1] + group)
        else:
            grouped.append((written, group))
    return grouped


def _nested_object(written: str, words: Tuple[str, ...], catalogue: Catalogue) -> Optional[Mapping[str, Any]]:
    """The object in --key '{"inner": ...}' when `written` is the name of a nested group, else None."""
    if len(words) != 1 or not any(item.startswith(written + ".") for item in catalogue.spellings()):
        return None
    try:
        value = json.loads(words[0])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _add(layer: Layer, written: str, raw: Any, catalogue: Catalogue, read: Any) -> None:
    """Read one key into the layer, or note what is wrong with it."""
    translation = catalogue.translations.get(written)
    key = catalogue.find(written)
    if translation is not None:
        _translate(layer, written, raw, translation, read)
    elif key is None:
        layer.problems.append(unknown(written, catalogue, layer.source))
    else:
        _take(layer, written, raw, key, read)


def _take(layer: Layer, written: str, raw: Any, key: Key, read: Any) -> None:
    try:
        value = read(raw, key.hint)
    except ValueError as error:
        layer.problems.append(f"{written} {error}")
        layer.broken.append(key.name)
        return
    why = ""
    meant = key.choices.synonyms.get(value, value) if isinstance(value, str) else value
    if meant != value:
        why, value = f"{written} {value} means {meant}", meant
    problems = limit_problems(key, value) if key.available else []
    if problems:
        layer.problems.extend(_in_users_words(line, key.name, written) for line in problems)
        layer.broken.append(key.name)
        return
    _put(layer, key.name, Given(value, written, layer.source, why))


def _translate(layer: Layer, written: str, raw: Any, translation: Translation, read: Any) -> None:
    """Turn another document's key into ours, or note that its value has no meaning here."""
    try:
        value = read(raw, translation.hint)
    except ValueError as error:
        layer.problems.append(f"{written} {error}")
        layer.broken.append(translation.target)
        return
    if not isinstance(value, list) and value in translation.silent:
        return
    if isinstance(value, list) and len(value) == 1:
        meant = value[0]
    elif not isinstance(value, list) and value in translation.meaning:
        meant = translation.meaning[value]
    else:
        layer.problems.append(_no_meaning(written, value, translation))
        layer.broken.append(translation.target)
        return
    target = translation.target if isinstance(value, list) else translation.others.get(value, translation.target)
    _put(layer, target, Given(meant, written, layer.source, f"{written} is {show(value)}"))


def _no_meaning(written: str, value: Any, translation: Translation) -> str:
    if isinstance(value, list):
        return f"{written} has {len(value)} paths; give one, or one folder with {translation.target}"
    if value in translation.refused:
        return f"{written} {show(value)} is not available yet; {translation.refused[value]}"
    allowed = listed(tuple(show(item) for item in (*translation.meaning, *translation.silent)))
    return f"{written} must be one of {allowed}, got {show(value)}"


def _put(layer: Layer, name: str, given: Given) -> None:
    """Keep a value; a second, different one for the same key in the same source is a contradiction."""
    earlier = layer.given.get(name)
    if earlier is not None and earlier.value != given.value:
        layer.problems.append(
            f"{name} is given twice in {_place(layer.source)}: {_said(earlier)} and {_said(given)}; keep one"
        )
        layer.broken.append(name)
    elif earlier is None:
        layer.given[name] = given


def _said(given: Given) -> str:
    return given.why or f"{given.written} is {show(given.value)}"


def _place(source: str) -> str:
    return "the command line" if source == "command line" else source


def _in_users_words(line: str, name: str, written: str) -> str:
    return written + line[len(name) :] if line.startswith(name) else line


def unknown(written: str, catalogue: Catalogue, source: str) -> str:
    """The message for a key that does not exist, with the nearest that does."""
    spelling = written.replace("-", "_")
    known = catalogue.spellings()
    near = get_close_matches(spelling, known, n=1, cutoff=0.7)
    if spelling in known:
        near = [spelling]
    elif not near and len(spelling) > 2:
        near = [item for item in known if item.startswith(spelling)][:3]
    hint = f", did you mean {' or '.join(near)}?" if near else "; paddle-sft explain lists all keys"
    return f"unknown argument {written!r} in {_place(source)}{hint}"
