"""Which linear layers a user means."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Dict, List, Optional, Sequence, Union

from paddle_sft.core.errors import ArgumentError

ALL_LINEAR = "all-linear"
Targets = Union[None, str, Sequence[str]]


def choose_targets(paths: Sequence[str], targets: Targets) -> List[str]:
    """Paths of the layers to adapt, in the model's order.

    Args:
        paths: every linear layer of the model, e.g. llama.layers.0.self_attn.q_proj.
        targets: None or "all-linear" for all of them (the default of PaddleNLP's families, and what the papers that
            compare targets recommend); a list of names, each a layer's last name(s) such as q_proj or
            self_attn.q_proj; or one regular expression that must match a whole path.

    Raises:
        ArgumentError: a name that matches nothing, with the nearest names; a broken expression.
    """
    if targets is None or targets == ALL_LINEAR or list(targets) == [ALL_LINEAR]:
        return list(paths)
    if isinstance(targets, str):
        return _by_expression(paths, targets)
    matches = {name: [path for path in paths if path == name or path.endswith("." + name)] for name in targets}
    unmatched = [name for name, found in matches.items() if not found]
    if unmatched or not matches:
        raise ArgumentError(_no_match(unmatched or [""], paths))
    chosen = {path for found in matches.values() for path in found}
    return [path for path in paths if path in chosen]


def names_path(name: str, path: str) -> bool:
    """Whether a name is a layer's: its whole path, the end of it, or an expression that matches all of it.

    Raises:
        ArgumentError: neither a name nor a regular expression.
    """
    if name == path or path.endswith("." + name):
        return True
    try:
        return re.fullmatch(name, path) is not None
    except re.error as error:
        raise ArgumentError(f"{name!r} is neither a layer's name nor a regular expression: {error}") from error


def _by_expression(paths: Sequence[str], expression: str) -> List[str]:
    by_name = [path for path in paths if path == expression or path.endswith("." + expression)]
    if by_name:
        return by_name
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ArgumentError(f"lora_target_modules {expression!r} is not a regular expression: {error}") from error
    found = [path for path in paths if pattern.fullmatch(path)]
    if not found:
        raise ArgumentError(_no_match([expression], paths))
    return found


def _no_match(names: Sequence[str], paths: Sequence[str]) -> str:
    last_names = list(_last_names(paths))
    nearest = [near for name in names for near in get_close_matches(_last(name), last_names, n=1)]
    hint = f"; did you mean {', '.join(repr(name) for name in nearest)}?" if nearest else ""
    given = ", ".join(repr(name) for name in names)
    return (
        f"lora_target_modules {given} match no layer{hint} "
        f"Linear layers here: {', '.join(last_names)} (a whole path: {paths[0] if paths else 'none'})"
    )


def _last(name: str) -> str:
    return re.sub(r"[^\w.]", "", name).rsplit(".", 1)[-1]


def _last_names(paths: Sequence[str]) -> Dict[str, Optional[str]]:
    return dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths)
