"""By which a base model is told from another one of the same shapes: a few of its weights, and of its codes."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional

import numpy as np

from paddle_sft.core.tensorfile import from_float32, to_float32
from paddle_sft.models.fingerprint import NUM_VALUES, Mark, spots
from paddle_sft.models.linears import features, find_linears
from paddle_sft.models.quantised import schemes_of
from paddle_sft.quant.choice import Schemes

_ROUNDED = 2.0**-7
"""Relative. A value that came through float16 may be rounded to the next bfloat16."""
_SAME = 0.8
"""Share of the values that are bit for bit the same where the base is: through float16 one in sixteen isn't."""
_SAME_CODES = 0.95
"""Share of the codes: a value at the border of two codes may be rounded otherwise on another device."""


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a base; each text is empty where it isn't known."""

    floats: str = ""
    """256 weights, rounded to bfloat16, as base64: the same whatever type the model is loaded in. Of a base that was
    quantised while it was loaded, those of the folder."""
    codes: str = ""
    """Bytes of the codes of quantised layers, as base64."""
    schemes: Schemes = field(default_factory=dict)
    """How they were quantised: other codes say nothing otherwise."""


def fingerprint(marks: Mapping[int, Mark], schemes: Optional[Schemes] = None) -> Fingerprint:
    """The fingerprint that values make, by number (`models.fingerprint.places`)."""
    values = [marks[number].value if number in marks else None for number in range(NUM_VALUES)]
    codes = [marks[number].code for number in sorted(marks) if marks[number].code is not None]
    floats = ""
    if None not in values:
        floats = _text(from_float32(np.array(values, dtype=np.float32), "BF16").tobytes())
    return Fingerprint(floats, _text(bytes(codes)), dict(schemes or {}))


def fingerprint_of(model: Any) -> Fingerprint:
    """The fingerprint of a model in memory that has no adapter yet.

    What was quantised while it was loaded keeps the original's, from the marks that the loader has put at
    `base_marks`. Nothing is known of a model without weights, or of which this process holds a part.
    """
    known = getattr(model, "base_fingerprint", None)
    if known is not None:
        return known
    linears = find_linears(model)
    marks: Dict[int, Mark] = dict(getattr(model, "base_marks", {}))
    for path, inside in spots({path: features(layer) for path, layer in linears.items()}).items():
        weight = getattr(linears[path], "weight", None)
        lacking = {number: at for number, at in inside.items() if number not in marks}
        if lacking and (weight is None or not _is_whole(weight)):
            return Fingerprint()
        for number, (row, column) in lacking.items():
            marks[number] = Mark(float(weight.detach()[row, column].astype("float32")))
    return fingerprint(marks, schemes_of(model))


def _is_whole(weight: Any) -> bool:
    return len(weight.shape) == 2 and weight._is_initialized() and not getattr(weight, "is_distributed", False)


def is_same(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints may be of the same base; nobody contradicts where one is unknown."""
    if one.floats and other.floats:
        return one.floats == other.floats or _are_same_floats(one.floats, other.floats)
    if one.codes and other.codes and one.schemes == other.schemes:
        return one.codes == other.codes or _are_same_codes(one.codes, other.codes)
    return True


def _are_same_floats(one: str, other: str) -> bool:
    first, second = (_array(text, np.uint16) for text in (one, other))
    if first is None or second is None or first.shape != second.shape:
        return False
    first, second = to_float32(first, "BF16"), to_float32(second, "BF16")
    near = np.abs(first - second) <= _ROUNDED * np.abs(first) + 1e-7
    return bool(near.all() and (first == second).mean() >= _SAME)


def _are_same_codes(one: str, other: str) -> bool:
    first, second = (_array(text, np.uint8) for text in (one, other))
    known = first is not None and second is not None and first.shape == second.shape
    return bool(known and (first == second).mean() >= _SAME_CODES)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _array(text: str, kind: Any) -> Optional[np.ndarray]:
    """None where somebody edited it."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind)
    except ValueError:
        return None
