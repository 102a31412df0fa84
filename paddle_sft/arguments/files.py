"""Argument files: JSON or YAML in, an ordered list of (key, value) out, with duplicate keys still visible."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, List, Tuple

from paddle_sft.core.errors import ArgumentError

Pairs = List[Tuple[str, Any]]
SUFFIXES = (".json", ".yaml", ".yml")


class _Object(list):
    """A JSON or YAML object as pairs, so that a key written twice is not lost. Told from a list by its type."""


def read_file(path: str) -> Pairs:
    """The top-level pairs of an argument file, nested objects as dicts. "$schema" is for editors and left out.

    Raises:
        ArgumentError: no such file, not UTF-8, empty, broken, or not an object at the top.
    """
    text = _read_text(Path(path))
    if not text.strip():
        raise ArgumentError(f'{path} is empty; it must hold one JSON object, for example {{"model_name_or_path": ...}}')
    top = _parse_json(text, path) if path.endswith(".json") else _parse_yaml(text, path)
    if not isinstance(top, _Object):
        raise ArgumentError(f"{path} must hold one object with keys at the top level, found {_kind(top)}")
    pairs = []
    for key, value in top:
        if not isinstance(key, str):
            raise ArgumentError(f"{path}: the key {key!r} must be text")
        if key != "$schema":
            pairs.append((key, _plain(value, path, key)))
    return pairs


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ArgumentError(f"{path} is a folder; give the argument file in it{_nearest(path / 'x.json')}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ArgumentError(f"there is no file {path}{_nearest(path)}") from None
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ArgumentError(f"{path} can't be read: {error.strerror}") from None


def _nearest(path: Path) -> str:
    """The files beside a missing one that it may have meant."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    found = sorted(item.name for item in folder.iterdir() if item.suffix in SUFFIXES)
    near = get_close_matches(path.name, found, n=3, cutoff=0.5) or found[:5]
    if near:
        return f"; in {folder}: {', '.join(near)}"
    return f"; {folder} has no {', '.join(SUFFIXES)} file"


def _parse_json(text: str, path: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Object)
    except RecursionError:
        raise ArgumentError(f"{path} is nested too deeply") from None
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        raise ArgumentError(
            f"{path} line {error.lineno} column {error.colno} is not JSON: {error.msg}: {line.strip()[:80]}"
        ) from None


def _parse_yaml(text: str, path: str) -> Any:
    import yaml  # only for YAML files: it costs 30 ms

    class Loader(yaml.SafeLoader):
        """YAML 1.2's plain scalars: `no` is text and 1e-4 is a number, as the keys here expect."""

        yaml_implicit_resolvers: dict = {}

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
                return _Object((self.construct_object(k, True), self.construct_object(v, True)) for k, v in node.value)
            return super().construct_object(node, deep)

    for tag, pattern, first in (
        ("null", r"null|~|", ["n", "~", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?", list("-+.0123456789")),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
    try:
        return yaml.load(text, Loader=Loader)
    except RecursionError:
        raise ArgumentError(f"{path} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise ArgumentError(f"{path}{place} is not YAML: {getattr(error, 'problem', None) or error}") from None


def _plain(value: Any, path: str, key: str) -> Any:
    """Nested objects as dicts; a key written twice inside one is an error."""
    if isinstance(value, _Object):
        names = [name for name, _ in value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ArgumentError(f"{path}: {key} has the key {', '.join(twice)} twice; keep one")
        return {name: _plain(item, path, f"{key}.{name}") for name, item in value}
    return [_plain(item, path, key) for item in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "nothing"}.get(type(value), f"the value {value!r}")
