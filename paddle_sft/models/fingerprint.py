"""By which a base model is told from another one of the same shapes: a few of its weights, or of its codes."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

NUM_VALUES = 256
"""At 256 values, two bases of which 1 % of the weights differ are told apart in 92 of 100 cases, 5 % always."""
_SPREAD = 2654435761
"""Knuth's multiplicative hash: spread, and the same everywhere."""


class Mark(NamedTuple):
    """One of the values, as far as it is known."""

    value: Optional[float]
    """The weight as a float; None where only its code is left."""
    code: Optional[int] = None
    """A byte of the layer's codes, where it is quantised."""


def places(shapes: Mapping[str, Tuple[int, int]]) -> List[Tuple[str, Tuple[int, int]]]:
    """Where the values are, (path, [row, column]): evenly over the linear layers and over each of them."""
    paths = list(shapes)
    if not paths:
        return []
    found = []
    for number in range(NUM_VALUES):
        path = paths[number * len(paths) // NUM_VALUES]
        rows, columns = shapes[path]
        at = number * _SPREAD % (rows * columns)
        found.append((path, (at // columns, at % columns)))
    return found


def spots(shapes: Mapping[str, Tuple[int, int]]) -> Dict[str, Dict[int, Tuple[int, int]]]:
    """The same by layer: path -> number of the value -> [row, column]."""
    found: Dict[str, Dict[int, Tuple[int, int]]] = {}
    for number, (path, at) in enumerate(places(shapes)):
        found.setdefault(path, {})[number] = at
    return found


def code_at(codes: Any, number: int) -> int:
    """The byte of a layer's codes [n] that belongs to a value."""
    return int(codes[number * _SPREAD % int(codes.shape[0])])
