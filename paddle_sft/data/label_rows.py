"""Rows of a text and its label, for stage classification.

A label is a string or a whole number; 3 and "3" are the same class. A list of labels (also an empty one) is for data in
which a text may belong to several classes or to none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from paddle_sft.core.errors import DataError
from paddle_sft.data.row_values import kind_of, text_of


@dataclass(frozen=True)
class LabelledText:
    """A text, its label as JSON text (as `core.records.Sample` keeps it), and where it stood."""

    text: str
    label: str
    place: str


def read_labelled(row: dict, place: str) -> LabelledText:
    """{"text": ..., "label": ...}; the text may also be called src.

    Raises:
        DataError: no label, both or none of text and src, an empty text, or another type.
    """
    keys = [key for key in ("text", "src") if key in row]
    if row.get("label") is None:
        there = ", ".join(map(str, row)) or "none"
        raise DataError(f"{place}: no label (keys: {there}); write the text's class as label, or remove the line")
    if len(keys) != 1:
        raise DataError(f"{place}: the row has {' and '.join(keys) or 'no text'}; write the text as text, once")
    text = text_of(row[keys[0]], keys[0], place)
    if not text.strip():
        raise DataError(f"{place}: {keys[0]} is empty, so there is nothing to classify; remove the line")
    label = row["label"]
    for entry in label if isinstance(label, list) else [label]:
        _require_label(entry, place)
    return LabelledText(text, json.dumps(label, ensure_ascii=False), place)


def _require_label(label: Any, place: str) -> None:
    if type(label) is int:
        return
    if not isinstance(label, str):
        raise DataError(f"{place}: label is {kind_of(label)}; write a string, a whole number, or a list of these")
    if not text_of(label, "label", place).strip():
        raise DataError(f"{place}: label is empty; write the text's class, or remove the line")
