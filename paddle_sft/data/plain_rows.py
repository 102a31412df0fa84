"""Rows without roles: src/tgt and text.

An empty `src` is legal: it trains text that has no prompt. An empty `tgt` is not: it would train the model to say
nothing. In stage pretrain the turns are joined, src then tgt, and `tgt` may be missing or empty, as in PaddleNLP's
`autoregressive` data (which reads `src` alone; here a `tgt` that is there is trained too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.row_values import kind_of, texts_of


@dataclass(frozen=True)
class Document:
    """Running text for pre-training, and where it stood."""

    text: str
    place: str


def read_src_tgt(row: dict, place: str) -> Conversation:
    """{"src": question, "tgt": answer}, or lists of equal length, one entry a turn."""
    missing = [key for key in ("src", "tgt") if key not in row]
    if missing:
        there = ", ".join(row)
        raise DataError(f"{place}: no {missing[0]!r} key (keys: {there}); write both src and tgt")
    sources, targets = texts_of(row, "src", place), texts_of(row, "tgt", place)
    _require_equal_lengths(sources, targets, place)
    if not targets:
        raise DataError(f"{place}: src and tgt are empty lists; write at least one turn or remove the line")
    for index, target in enumerate(targets):
        if not target.strip():
            which = f"tgt[{index}]" if isinstance(row["tgt"], list) else "tgt"
            raise DataError(
                f"{place}: {which} is empty, so there is nothing to train; write the answer or remove the line"
            )
    turns: List[Turn] = []
    for source, target in zip(sources, targets):
        turns += [Turn("user", source), Turn("assistant", target)]
    return Conversation(tuple(turns), place)


def read_src_tgt_document(row: dict, place: str) -> Document:
    """The turns end to end."""
    sources = texts_of(row, "src", place) if "src" in row else []
    targets = texts_of(row, "tgt", place) if "tgt" in row else [""] * len(sources)
    if "src" not in row:
        sources = [""] * len(targets)
    _require_equal_lengths(sources, targets, place)
    return _document("".join(source + target for source, target in zip(sources, targets)), "src and tgt", place)


def read_text(row: dict, place: str) -> Document:
    """{"text": a document}."""
    if not isinstance(row.get("text"), str):
        raise DataError(f"{place}: text is {kind_of(row.get('text'))}, a string is needed; put it in quotes")
    return _document(texts_of(row, "text", place)[0], "text", place)


def _require_equal_lengths(sources: List[str], targets: List[str], place: str) -> None:
    if len(sources) != len(targets):
        raise DataError(
            f"{place}: src has {len(sources)} entries and tgt has {len(targets)}; write one tgt for each src"
        )


def _document(text: str, keys: str, place: str) -> Document:
    if not text.strip():
        raise DataError(f"{place}: {keys} is empty, so there is nothing to train; write the text or remove the line")
    return Document(text, place)
