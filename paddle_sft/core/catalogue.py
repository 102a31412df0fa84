"""Catalogues are dict literals; this is the one way to look a name up in them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Mapping, TypeVar

from paddle_sft.core.errors import ArgumentError

Entry = TypeVar("Entry")


def choose(key: str, name: str, catalogue: Mapping[str, Entry]) -> Entry:
    """Return the catalogue entry called `name`; `key` is the argument the user wrote it under.

    Raises:
        ArgumentError: no such entry; names the nearest one and all that are allowed.
    """
    if name in catalogue:
        return catalogue[name]
    near = get_close_matches(str(name), list(catalogue), n=1)
    hint = f", did you mean {near[0]!r}?" if near else "."
    raise ArgumentError(f"{key} is {name!r}{hint} Allowed: {', '.join(catalogue)}.")
