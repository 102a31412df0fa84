"""What a row may look like, and the record that each stage makes of it. docs/data_formats/ has a page for each.

Each row is looked at by itself, so one file may mix formats; what the first row is, and what the others are, is said.
`data_format` and `columns` of the arguments override the look. Keys that no reader knows are named as not used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.chat_rows import read_alpaca, read_messages, read_prompt_completion, read_sharegpt
from paddle_sft.data.label_rows import read_labelled
from paddle_sft.data.plain_rows import Document, read_src_tgt, read_src_tgt_document, read_text
from paddle_sft.data.preference_rows import judgement, read_kto, read_preference, read_response_sort

Reader = Callable[[dict, str], Any]
"""(row, place) -> record; raises DataError with the place."""

KINDS = {"sft": "conversation", "pretrain": "document", "preference": "pair", "kto": "judged",
         "classification": "labelled"}  # fmt: skip
"""Stage -> the kind of record that it trains on."""


@dataclass(frozen=True)
class Format:
    """One kind of row: the keys it is known by, its readers by kind of record, and an example that the tests read."""

    keys: Tuple[str, ...]
    """Every key that is read."""
    required: Tuple[str, ...]
    """A row with all of them is of this format."""
    example: Mapping[str, object]
    readers: Mapping[str, Reader]
    """Kind of record (KINDS) -> reader."""
    any_required: bool = False
    """One of `required` is enough."""
    instead_of: Tuple[str, ...] = ()
    """Formats whose keys this one has too: a row that is both is this one."""
    condition: Optional[Callable[[dict], bool]] = None

    def fits(self, row: dict) -> bool:
        """Whether the row has the keys of this format."""
        has = any if self.any_required else all
        return has(key in row for key in self.required) and (self.condition is None or self.condition(row))

    @property
    def looks_at_values(self) -> bool:
        """Whether `fits` may say another thing of a row with the same keys."""
        return self.condition is not None


@dataclass(frozen=True)
class Layout:
    """What the user says about the rows: the format's name, and {our key: their column}."""

    data_format: Optional[str] = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data_format is not None:
            choose("data_format", self.data_format, FORMATS)
        known = {key: key for form in self._formats() for key in form.keys}
        for key in self.columns:
            choose("columns", key, known)
        theirs = Counter(self.columns.values())
        for column, num in theirs.items():
            if num > 1:
                raise ArgumentError(f"columns reads {column!r} {num} times; each column can be one key only")

    def _formats(self) -> List[Format]:
        return [FORMATS[self.data_format]] if self.data_format else list(FORMATS.values())

    def rename(self, row: dict, place: str) -> dict:
        """The row under our keys.

        Raises:
            DataError: a required key is mapped to a column that the row hasn't.
        """
        required = {key for form in self._formats() for key in form.required}
        for key, column in self.columns.items():
            if column not in row and key in required:
                there = ", ".join(map(str, row)) or "none"
                raise DataError(
                    f"{place}: columns reads {key} from {column!r}, and the row has no such key (keys: {there})"
                )
        theirs = set(self.columns.values())
        renamed = {key: value for key, value in row.items() if key not in theirs and key not in self.columns}
        renamed.update((key, row[column]) for key, column in self.columns.items() if column in row)
        return renamed


def read_columns(given: Union[Mapping[str, str], Sequence[str], None]) -> Dict[str, str]:
    """`columns` as the user wrote it: {our key: their column}, or "ours=theirs" in a list, as on the command line.

    Raises:
        ArgumentError: neither.
    """
    if not given:
        return {}
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        pairs = [tuple(one.partition("=")[::2]) if isinstance(one, str) else (one, None) for one in given]
    for ours, theirs in pairs:
        if not isinstance(theirs, str) or not ours or not theirs:
            raise ArgumentError(
                f'columns has {ours!r}: {theirs!r}; write {{"our key": "their column"}}, or ours=theirs'
            )
    if len(dict(pairs)) < len(pairs):
        raise ArgumentError("columns names one of our keys twice; keep one")
    return dict(pairs)


class RowReader:
    """Reads the rows of one source for one stage, and remembers which formats it met."""

    def __init__(self, stage: str, layout: Optional[Layout] = None) -> None:
        self.stage = stage
        self.layout = layout or Layout()
        self.met: Dict[str, Tuple[int, str]] = {}
        """Format -> number of its rows, and the place of the first."""
        self._told: Dict[Tuple[str, ...], Tuple[str, Tuple[str, ...]]] = {}

    def read(self, row: dict, place: str) -> Tuple[Any, Tuple[str, ...]]:
        """The row as the record of the stage, and the keys of the row that were not used.

        Raises:
            DataError: no format, another stage's, missing keys, wrong types, an order that is no dialogue.
        """
        ours = self.layout.rename(row, place) if self.layout.columns else row
        name, unused = self._told.get(tuple(row)) or self._tell(row, ours, place)
        form = FORMATS[name]
        reader = form.readers.get(KINDS[self.stage])
        if reader is None:
            raise DataError(_wrong_stage(name, ours, place, self.stage))
        record = reader(ours, place)
        num, first = self.met.get(name, (0, place))
        self.met[name] = (num + 1, first)
        return record, unused

    def _tell(self, row: dict, ours: dict, place: str) -> Tuple[str, Tuple[str, ...]]:
        """(format, keys that it doesn't use); remembered where keys alone tell, for rows of a file are mostly alike."""
        name = self.layout.data_format or _find_format(ours, place, self.stage)
        used = {self.layout.columns.get(key, key) for key in FORMATS[name].keys}
        told = name, tuple(key for key in row if key not in used)
        if not any(form.looks_at_values and all(key in ours for key in form.required) for form in FORMATS.values()):
            self._told[tuple(row)] = told
        return told

    def lines(self) -> List[str]:
        """Which format the rows have, and from which row that was told."""
        if self.layout.data_format or not self.met:
            return [f"format: {self.layout.data_format or 'none met'} (data_format)"]
        found = [
            f"{name} ({num:,} {'row' if num == 1 else 'rows'}, told from {first})"
            for name, (num, first) in self.met.items()
        ]
        return [f"format: {' and '.join(found)}"]


def read_row(row: dict, place: str, stage: str, layout: Optional[Layout] = None) -> Tuple[Any, Tuple[str, ...]]:
    """One row as what `stage` trains on, and the keys that were not used. Raises DataError like `RowReader.read`."""
    return RowReader(stage, layout).read(row, place)


def _find_format(row: dict, place: str, stage: str) -> str:
    here = [name for name, form in FORMATS.items() if form.fits(row)]
    here = [name for name in here if not any(name in FORMATS[other].instead_of for other in here)]
    usable = [name for name in here if KINDS[stage] in FORMATS[name].readers]
    # text beside a question and an answer is a copy of them in some data sets; stage sft can't mean it
    rivals = [name for name in here if name not in ("text", "text_label")] if stage == "sft" else usable
    if len(usable) == 1 and len(rivals) <= 1:
        return usable[0]
    if len(rivals) > 1:
        raise DataError(
            f"{place}: the row has both {' and '.join(rivals)} keys, and either could be meant; keep one, or name it "
            "with data_format"
        )
    if here:
        raise DataError(_wrong_stage(here[0], row, place, stage))
    wanted = {"pretrain": "src and tgt, or text", "classification": "text and label"}.get(stage)
    wanted = wanted or "src and tgt, or messages"
    there = ", ".join(map(str, row)) or "none"
    raise DataError(
        f"{place}: the row has none of the keys that are read (keys: {there}); write {wanted}, or map the row's "
        "keys with columns"
    )


def _wrong_stage(name: str, row: dict, place: str, stage: str) -> str:
    there = ", ".join(map(str, row)) or "none"
    said = f"{place}: a {name} row (keys: {there})"
    if stage == "classification":
        lacks = "label" if "text" in row or "src" in row else "text with a label"
        return f"{said} has no {lacks}; write text and label, or map the row's keys with columns"
    if name == "text_label":
        return f"{said} has a label and no answer, and is no data for stage {stage}; set stage to classification"
    if name == "text":
        return f"{said} has no answer to train in stage {stage}; set stage to pretrain, or write src and tgt"
    if stage == "pretrain":
        return f"{said} has turns, and stage pretrain trains running text; set stage to sft, or write text"
    if name in ("preference", "response_sort", "kto"):
        use = "kto" if name == "kto" else "preference"
        return (
            f"{said} is {use} data, and stage {stage} would train one answer whatever its judgement; to do that on "
            "purpose, name another format with data_format and columns"
        )
    return f"{said} is no data for stage {stage}"


FORMATS: Dict[str, Format] = {
    "src_tgt": Format(
        keys=("src", "tgt"),
        required=("src", "tgt"),
        any_required=True,
        example={"src": ["What is 2 + 2?", "And 3 + 3?"], "tgt": ["4.", "6."]},
        readers={"conversation": read_src_tgt, "document": read_src_tgt_document},
    ),
    "messages": Format(
        keys=("messages", "tools", "system"),
        required=("messages",),
        example={
            "messages": [
                {"role": "system", "content": "Answer in one word."},
                {"role": "user", "content": "Capital of France?"},
                {"role": "assistant", "content": "Paris."},
            ]
        },
        readers={"conversation": read_messages},
    ),
    "sharegpt": Format(
        keys=("conversations", "system", "tools"),
        required=("conversations",),
        example={"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello, too."}]},
        readers={"conversation": read_sharegpt},
    ),
    "alpaca": Format(
        keys=("instruction", "input", "output", "history", "system"),
        required=("instruction",),
        example={"instruction": "Translate into French.", "input": "Good day", "output": "Bonjour"},
        readers={"conversation": read_alpaca},
    ),
    "prompt_completion": Format(
        keys=("prompt", "completion", "system", "tools"),
        required=("prompt", "completion"),
        example={"prompt": "The sky is", "completion": " blue."},
        readers={"conversation": read_prompt_completion},
    ),
    "text_label": Format(
        keys=("text", "src", "label"),
        required=("label",),
        condition=lambda row: ("text" in row or "src" in row) and "tgt" not in row,
        example={"text": "The room was clean and quiet.", "label": "positive"},
        readers={"labelled": read_labelled},
    ),
    "text": Format(
        keys=("text",),
        required=("text",),
        example={"text": "The lighthouse was built in 1821."},
        readers={"document": read_text},
    ),
    "preference": Format(
        keys=("prompt", "chosen", "rejected", "system", "tools"),
        required=("chosen", "rejected"),
        example={"prompt": "Name a prime number.", "chosen": "7", "rejected": "8"},
        readers={"pair": read_preference},
    ),
    "response_sort": Format(
        keys=("src", "tgt", "response", "sort", "system"),
        required=("response", "sort"),
        instead_of=("src_tgt",),
        example={"src": ["Name a prime number."], "tgt": [], "response": ["7", "8"], "sort": [1, 0]},
        readers={"pair": read_response_sort},
    ),
    "kto": Format(
        keys=("prompt", "completion", "label", "system", "tools"),
        required=("prompt", "completion", "label"),
        instead_of=("prompt_completion",),
        condition=lambda row: judgement(row["label"]) is not None,
        example={"prompt": "Name a prime number.", "completion": "8", "label": False},
        readers={"judged": read_kto},
    ),
}
__all__ = ["Document", "FORMATS", "KINDS", "Format", "Layout", "RowReader", "read_columns", "read_row"]
