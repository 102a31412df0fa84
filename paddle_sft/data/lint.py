"""Looks for what is wrong with the data of a run, before it costs one. Finds; changes nothing (see `clean`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation
from paddle_sft.data.dialogue import JudgedConversation, PreferencePair
from paddle_sft.data.documents import tokenize_documents
from paddle_sft.data.formats import RowReader
from paddle_sft.data.joint import find_special_tokens
from paddle_sft.data.label_rows import LabelledText
from paddle_sft.data.length_policy import POLICIES
from paddle_sft.data.problems import Problems
from paddle_sft.data.recipe import choose_render
from paddle_sft.data.source import SPLITS
from paddle_sft.data.sources import FoundSource, find_sources, row_filter, rows_by_source
from paddle_sft.data.text_checks import find_broken_end, find_damage, find_marks, find_role_order, template_marks
from paddle_sft.data.tokenize import Draft, Specials, find_specials, tokenize_conversations

CHECKS: Dict[str, str] = {
    "bad line": "can't be read at all",
    "bad row": "is no row of a format that this stage reads",
    "empty": "has nothing to train",
    "duplicate": "is there more than once",
    "overlap": "is training data and dev data",
    "same prompt": "asks in training what dev asks, too",
    "other label": "has another label where its text stands once more",
    "role order": "has messages in an unusual order",
    "template token": "has marks of a template in its text",
    "encoding": "was decoded wrongly, or has invisible characters",
    "broken answer": "has an answer that seems to stop in the middle",
    "template": "can't be written by the template",
    "truncated": "is cut by length_policy",
}
"""Kind of finding -> what it says about a row."""

_NOT_TRAINABLE = ("bad line", "bad row", "empty", "duplicate", "overlap", "template")
"""Kinds of which `clean` leaves the row out."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where."""

    kind: str
    place: str
    message: str
    split: str = ""
    number: int = -1
    """Of its row among those of the split; -1 for what is no row."""

    def line(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


@dataclass(frozen=True)
class CheckedRow:
    """A row as it stands in its file, and as what the stage reads."""

    row: dict
    place: str
    """With the name of its source, where sources have names."""
    split: str
    number: int
    """Among the rows of its split, from 0."""
    source: str = ""
    record: Any = None

    def finding(self, kind: str, message: str) -> Finding:
        """What is wrong with this row."""
        return Finding(kind, self.place, message, self.split, self.number)


@dataclass
class CheckedData:
    """What a check found, by split."""

    findings: List[Finding] = field(default_factory=list)
    rows: Dict[str, List[CheckedRow]] = field(default_factory=dict)
    files: Dict[str, Tuple[Path, ...]] = field(default_factory=dict)
    lengths: Dict[str, List[int]] = field(default_factory=dict)
    """Tokens of each sample before length_policy; empty without a tokenizer."""
    notes: List[str] = field(default_factory=list)

    def kept_rows(self, split: str) -> List[CheckedRow]:
        """The rows of a split that a cleaned copy has."""
        left_out = {one.number for one in self.findings if one.kind in _NOT_TRAINABLE and one.split == split}
        return [row for row in self.rows[split] if row.number not in left_out]


def check_data(arguments, stage: str, tokenizer: Any = None, model_folder: Optional[Path] = None) -> CheckedData:
    """Check the train and dev data of `arguments`. Without a tokenizer, lengths and the template are not checked.

    Raises:
        DataError: no data at all.
        ArgumentError: arguments that can't work.
    """
    checked = CheckedData()
    specials = find_specials(tokenizer) if tokenizer is not None else None
    render = choose_render(arguments, tokenizer, specials, stage, model_folder) if tokenizer is not None else None
    marks = template_marks(arguments.template, find_special_tokens(tokenizer).texts if tokenizer is not None else ())
    checked.notes += render.notes if render else ()
    for split in SPLITS:
        if split == "train" and _is_only_measured(arguments):
            continue
        try:
            sources = find_sources(arguments, split, stage)
        except DataError:
            if split == "train" or getattr(arguments, "eval_dataset", None):
                raise
            continue  # a run without dev data
        checked.files[split] = tuple(path for source in sources for path in source.files)
        checked.rows[split] = _read(sources, split, arguments, checked)
        checked.findings += _check_texts(checked.rows[split], marks)
        if tokenizer is not None:
            checked.lengths[split] = _check_lengths(checked, split, arguments, render, specials, tokenizer)
    checked.findings += _duplicates(checked.rows)
    checked.findings += _other_labels(checked.rows)
    checked.findings += _overlap(checked.rows.get("train", []), checked.rows.get("dev", []))
    order = list(CHECKS)
    checked.findings.sort(key=lambda finding: order.index(finding.kind))  # stable: places stay in file order
    return checked


def _is_only_measured(arguments) -> bool:
    """Whether the run has dev sets and nothing to train on."""
    data = arguments.dataset_name_or_path or getattr(arguments, "dataset", None)
    return not data and bool(getattr(arguments, "eval_dataset", None))


def _read(sources: Sequence[FoundSource], split: str, arguments, checked: CheckedData) -> List[CheckedRow]:
    belongs = row_filter(sources, arguments, split)
    problems = Problems(num_shown=None)
    rows: List[CheckedRow] = []
    for source, found in zip(sources, rows_by_source(sources, arguments.max_samples, problems)):
        reader, mark = RowReader(source.stage, source.layout), f"{source.name}: " if source.name else ""
        known = len(problems.shown)
        for content, place in found:
            if belongs is not None and not belongs(content):
                continue
            row = CheckedRow(content, _named(source.name, place), split, len(rows), source.name)
            try:
                row = replace(row, record=reader.read(content, place)[0])
            except DataError as error:
                message = str(error).partition(f"{place}: ")[2] or str(error)
                checked.findings.append(row.finding("empty" if "empty" in message else "bad row", message))
            rows.append(row)
        checked.notes += [f"{mark}{line}" for line in reader.lines() if "none met" not in line]
        if split == "train" or belongs is None:  # with val_size the lines of both splits are the same
            checked.findings += [_bad_line(problem, source.name) for problem in problems.shown[known:]]
    return rows


def _named(source: str, place: str) -> str:
    return f"{source}, {place}" if source else place


def _bad_line(problem: str, source: str) -> Finding:
    place, colon, message = problem.partition(": ")
    return Finding("bad line", _named(source, place), message) if colon else Finding("bad line", source, problem)


def conversations_of(record: Any) -> Tuple[Conversation, ...]:
    """The conversations of a record: one, two of a pair, none of a document."""
    if isinstance(record, PreferencePair):
        return (record.chosen, record.rejected)
    if isinstance(record, JudgedConversation):
        return (record.conversation,)
    return (record,) if isinstance(record, Conversation) else ()


def _check_texts(rows: Sequence[CheckedRow], marks: Set[str]) -> Iterator[Finding]:
    for row in rows:
        if row.record is None:
            continue
        for conversation in conversations_of(row.record):
            for message in find_role_order([turn.role for turn in conversation.turns]):
                yield row.finding("role order", message)
            for number, turn in enumerate(conversation.turns, start=1):
                yield from _check_text(turn.content, turn.role, f"message {number} ({turn.role})", row, marks)
        if hasattr(row.record, "text"):
            yield from _check_text(row.record.text, "", "the text", row, marks)


def _check_text(text: str, role: str, which: str, row: CheckedRow, marks: Set[str]) -> Iterator[Finding]:
    checks: List[Tuple[str, Callable[[str], Iterator[str]]]] = [
        ("template token", partial(find_marks, marks=marks)),
        ("encoding", find_damage),
    ]
    if role == "assistant":
        checks.append(("broken answer", find_broken_end))
    for kind, find in checks:
        for message in find(text):
            yield row.finding(kind, f"{which} {message}")


def _check_lengths(
    checked: CheckedData, split: str, arguments, render: Any, specials: Specials, tokenizer: Any
) -> List[int]:
    lengths = []
    for row in checked.rows[split]:
        if hasattr(row.record, "text"):
            lengths.append(len(tokenize_documents([row.record], specials, tokenizer)[0]))
        for conversation in conversations_of(row.record):
            try:
                (draft,) = tokenize_conversations([conversation], render, specials, tokenizer)
            except DataError as error:
                last = str(error).splitlines()[-1].strip()
                checked.findings.append(row.finding("template", last.partition(f"{conversation.place}: ")[2] or last))
                continue
            lengths.append(len(draft.ids))
            checked.findings += _check_length(draft, row, arguments)
    return lengths


def _check_length(draft: Draft, row: CheckedRow, arguments) -> Iterator[Finding]:
    policy, limit = arguments.length_policy, arguments.max_length
    if not draft.trained.any():
        yield row.finding("empty", "none of its tokens is trained")
        return
    if policy == "split":
        return
    lost = int((draft.trained & ~POLICIES[policy](draft, arguments.src_length, limit)).sum())
    if lost:
        yield row.finding(
            "truncated",
            f"{len(draft.ids):,} tokens; length_policy={policy} with max_length {limit:,} takes {lost:,} of its "
            f"{int(draft.trained.sum()):,} trained tokens",
        )  # fmt: skip


def _key(record: Any, without_answer: bool = False) -> Optional[tuple]:
    """What makes two records the same: roles and texts, without white space at their ends."""
    if isinstance(record, LabelledText):
        asked = (("text", record.text.strip()),)
        return asked if without_answer else (*asked, ("label", record.label))
    if hasattr(record, "text"):
        return None if without_answer else (record.text.strip(),)
    conversations = conversations_of(record)
    if not conversations:
        return None
    kept = [one.turns[:-1] if without_answer else one.turns for one in conversations]
    return tuple((turn.role, turn.content.strip()) for turns in kept for turn in turns)


def _duplicates(rows_of: Dict[str, List[CheckedRow]]) -> Iterator[Finding]:
    for rows in rows_of.values():
        first: Dict[tuple, str] = {}
        for row in rows:
            key = _key(row.record)
            if key is None:
                continue
            if key in first:
                yield row.finding("duplicate", f"the same as {first[key]}")
            first.setdefault(key, row.place)


def _other_labels(rows_of: Dict[str, List[CheckedRow]]) -> Iterator[Finding]:
    """Texts that can't be learnt: their rows contradict each other."""
    for rows in rows_of.values():
        first: Dict[tuple, CheckedRow] = {}
        for row in rows:
            if isinstance(row.record, LabelledText):
                before = first.setdefault(_key(row.record, True), row)
                if before.record.label != row.record.label:
                    yield row.finding("other label", f"{before.place} has {before.record.label} for this text")


def _overlap(train: Sequence[CheckedRow], dev: Sequence[CheckedRow]) -> Iterator[Finding]:
    whole = {_key(row.record): row.place for row in reversed(dev)}
    asked = {_key(row.record, True): row.place for row in reversed(dev)}
    for row in train:
        key, question = _key(row.record), _key(row.record, True)
        if key is not None and key in whole:
            yield row.finding("overlap", f"is dev data, too: {whole[key]}")
        elif question and any(text for _, text in question) and question in asked:
            yield row.finding("same prompt", f"asks what the dev data asks: {asked[question]}")
