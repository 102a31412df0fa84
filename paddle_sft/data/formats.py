"""What a row may look like, and how it becomes a Conversation (stage sft) or a Document (stage pretrain).

src_tgt   {"src": "question", "tgt": "answer"}, or lists of equal length, one entry a turn. An empty `src` is legal: it
          trains text that has no prompt. An empty `tgt` is not: it would train the model to say nothing. In stage
          pretrain the turns are joined, src then tgt, and `tgt` may be missing or empty, as in PaddleNLP's
          `autoregressive` data (which reads `src` alone; here a `tgt` that is there is trained too).
text      {"text": "a document"}, stage pretrain only.

Each row is looked at by itself, so one file may mix the two. Other keys are not used, and the plan says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Tuple, Union

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.source import kind_of


@dataclass(frozen=True)
class Document:
    """Running text for pre-training, and where it stood."""

    text: str
    place: str


@dataclass(frozen=True)
class Format:
    """One kind of row: the keys it is known by, its readers, and an example that the tests read."""

    keys: Tuple[str, ...]
    example: Mapping[str, object]
    to_conversation: Optional[Callable[[dict, str], Conversation]]
    to_document: Callable[[dict, str], Document]


NOT_YET: Dict[str, Tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction/output": ("instruction", "output"),
    "prompt/completion": ("prompt", "completion"),
    "chosen/rejected": ("chosen", "rejected"),
    "response/sort": ("response", "sort"),
}
"""Formats of other suites that are refused by name: reading them as something else would train the wrong thing."""


def read_row(row: dict, place: str, stage: str) -> Tuple[Union[Conversation, Document], Tuple[str, ...]]:
    """The row as what `stage` (sft or pretrain) trains on, and the keys of the row that were not used.

    Raises:
        DataError: a format that isn't there yet, missing keys, wrong types, lists of different length, empty target.
    """
    form = _find_format(row, place, stage)
    reader = form.to_document if stage == "pretrain" else form.to_conversation
    return reader(row, place), tuple(key for key in row if key not in form.keys)


def _find_format(row: dict, place: str, stage: str) -> Format:
    for name, keys in NOT_YET.items():
        if all(key in row for key in keys):
            raise DataError(f"{place}: {name} data is not available yet; write it as src/tgt")
    here = [name for name, form in FORMATS.items() if any(key in row for key in form.keys)]
    usable = [name for name in here if stage == "pretrain" or FORMATS[name].to_conversation]
    if len(usable) == 1:
        return FORMATS[usable[0]]
    if usable:
        raise DataError(f"{place}: the row has both {' and '.join(usable)} keys, and either could be meant; keep one")
    there = ", ".join(row) or "none"
    if here:
        raise DataError(
            f"{place}: a {here[0]} row (keys: {there}) has no answer to train in stage {stage}; "
            "set stage to pretrain, or write src and tgt"
        )
    wanted = "src and tgt" + (", or text" if stage == "pretrain" else "")
    raise DataError(f"{place}: the row has none of the keys that are read (keys: {there}); write {wanted}")


def _src_tgt_conversation(row: dict, place: str) -> Conversation:
    missing = [key for key in ("src", "tgt") if key not in row]
    if missing:
        there = ", ".join(row)
        raise DataError(f"{place}: no {missing[0]!r} key (keys: {there}); write both src and tgt")
    sources, targets = _texts(row, "src", place), _texts(row, "tgt", place)
    if len(sources) != len(targets):
        raise DataError(
            f"{place}: src has {len(sources)} entries and tgt has {len(targets)}; write one tgt for each src"
        )
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


def _src_tgt_document(row: dict, place: str) -> Document:
    sources = _texts(row, "src", place) if "src" in row else []
    targets = _texts(row, "tgt", place) if "tgt" in row else [""] * len(sources)
    if "src" not in row:
        sources = [""] * len(targets)
    if len(sources) != len(targets):
        raise DataError(
            f"{place}: src has {len(sources)} entries and tgt has {len(targets)}; write one tgt for each src"
        )
    return _document("".join(source + target for source, target in zip(sources, targets)), "src and tgt", place)


def _text_document(row: dict, place: str) -> Document:
    if not isinstance(row["text"], str):
        raise DataError(f"{place}: text is {kind_of(row['text'])}, a string is needed; put it in quotes")
    return _document(_texts(row, "text", place)[0], "text", place)


def _document(text: str, keys: str, place: str) -> Document:
    if not text.strip():
        raise DataError(f"{place}: {keys} is empty, so there is nothing to train; write the text or remove the line")
    return Document(text, place)


def _texts(row: dict, key: str, place: str) -> List[str]:
    """The value as a list of strings that a tokenizer can encode; a string alone is a list of one."""
    value = row[key]
    entries = value if isinstance(value, list) else [value]
    for index, entry in enumerate(entries):
        which = f"{key}[{index}]" if isinstance(value, list) else key
        if not isinstance(entry, str):
            remedy = "write a string or a list of strings" + (' ("" for no text)' if entry is None else "")
            raise DataError(f"{place}: {which} is {kind_of(entry)}, a string is needed; {remedy}")
        try:
            entry.encode("utf-8")
        except UnicodeEncodeError as error:
            # JSON can spell half of a surrogate pair; it is not a character, and tokenizers crash on it
            half = ord(entry[error.start])
            raise DataError(
                f"{place}: {which} holds \\u{half:04x} at character {error.start}, half of a surrogate pair and no "
                "character; write the whole pair or remove it"
            ) from None
    return entries


FORMATS: Dict[str, Format] = {
    "src_tgt": Format(
        keys=("src", "tgt"),
        example={"src": ["What is 2 + 2?", "And 3 + 3?"], "tgt": ["4.", "6."]},
        to_conversation=_src_tgt_conversation,
        to_document=_src_tgt_document,
    ),
    "text": Format(
        keys=("text",),
        example={"text": "The lighthouse was built in 1821."},
        to_conversation=None,
        to_document=_text_document,
    ),
}
