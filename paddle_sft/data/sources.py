"""The data sets that a run names: their files by split, and which rows belong to which split."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.formats import Layout, RowReader, read_columns
from paddle_sft.data.problems import Problems
from paddle_sft.data.registry import DataSource, resolve_datasets, resolve_dev_sets
from paddle_sft.data.source import Row, find_files, read_rows


@dataclass(frozen=True)
class FoundSource:
    """The files of one source and split, and how their rows look."""

    files: Tuple[Path, ...]
    layout: Layout
    name: str = ""
    stage: str = "sft"
    """The stage whose records its rows become: the run's, or pretrain for running text among instruction data."""
    weight: float = 1.0
    max_samples: Optional[int] = None
    """Only its first rows."""

    def limit(self, left: Optional[int]) -> Optional[int]:
        """How many of its rows are read where `left` may be of all; None for no limit."""
        limits = [limit for limit in (left, self.max_samples) if limit is not None]
        return min(limits) if limits else None


@dataclass(frozen=True)
class FoundRecords:
    """The records of a stage, in file order."""

    records: list
    unused_keys: Tuple[Tuple[str, int], ...]
    notes: Tuple[str, ...]


def find_sources(arguments, split: str, stage: str) -> List[FoundSource]:
    """The sources of a split: what `dataset` names, or else dataset_name_or_path; of dev, what `eval_dataset` names.

    With val_size those of dev are those of train: see `row_filter`. In stage sft a source whose format is said to be
    text is pre-training text: all its tokens are trained.

    Raises:
        DataError: nothing there.
        ArgumentError: an unknown name, format or column; keys that contradict; nothing but text in stage sft.
    """
    if split == "dev" and getattr(arguments, "eval_dataset", None):
        found = _find_dev_sets(arguments, stage)
    elif getattr(arguments, "val_size", None):
        found = _find_to_split(arguments, stage)
    else:
        found = _find_split(arguments, split, stage)
        if not found:
            raise DataError(f"{_missing(arguments, split)} Add it, or switch evaluation off.")
    if split == "train" and stage == "sft" and all(source.stage == "pretrain" for source in found):
        raise ArgumentError(
            "stage is sft and all of the data is running text, which has no answer to train; set stage to pretrain, "
            "or mix it with instruction data"
        )
    return found


def _find_split(arguments, split: str, stage: str) -> List[FoundSource]:
    """The sources that have this split; [] when none has."""
    layout, named, path = _layout(arguments), getattr(arguments, "dataset", None), arguments.dataset_name_or_path
    if not named:
        found = [FoundSource(tuple(find_files(path, split)), layout, stage=_stage_of(layout, stage))]
    else:
        if path or layout != Layout():
            raise ArgumentError(
                "dataset names data sets of the registry, which says path, format and columns; leave out "
                "dataset_name_or_path, data_format and columns"
            )
        sources = resolve_datasets(named, getattr(arguments, "dataset_dir", None))
        found = [_found(source, split, stage) for source in sources]
    return [source for source in found if source.files]


def _layout(arguments) -> Layout:
    return Layout(getattr(arguments, "data_format", None), read_columns(getattr(arguments, "columns", None)))


def _found(source: DataSource, split: str, stage: str) -> FoundSource:
    return FoundSource(
        tuple(source.files(split)),
        source.layout,
        source.name,
        _stage_of(source.layout, stage),
        source.weight,
        source.max_samples,
    )


def _stage_of(layout: Layout, stage: str) -> str:
    return "pretrain" if stage == "sft" and layout.data_format == "text" else stage


def _missing(arguments, split: str) -> str:
    names = getattr(arguments, "dataset", None)
    if not names:
        path = arguments.dataset_name_or_path
        return f"{path} has no {split} data: looked for {split}.json and {split}/*.json (or .jsonl) in a folder."
    listed = names if isinstance(names, str) else ", ".join(names)
    return f"none of the data sets {listed} has {split} data."


def _find_dev_sets(arguments, stage: str) -> List[FoundSource]:
    given, folder = arguments.eval_dataset, getattr(arguments, "dataset_dir", None)
    found = [_found(source, "dev", stage) for source in resolve_dev_sets(given, _layout(arguments), folder)]
    for source in found:
        if not source.files:
            raise DataError(f"eval_dataset {source.name}: its folder has no dev split; name the file itself")
    return found


def _find_to_split(arguments, stage: str) -> List[FoundSource]:
    found = _find_split(arguments, "train", stage)
    own = [str(path) for source in _find_split(arguments, "dev", stage) for path in source.files]
    if own:
        raise ArgumentError(
            f"val_size takes dev data from the training data, and there is a dev split ({', '.join(own[:3])}); leave "
            "val_size out, or remove the dev split"
        )
    return found


def replaced_dev_files(arguments, stage: str) -> List[Path]:
    """The data set's own dev files that are not used, because eval_dataset names others."""
    has_own = arguments.dataset_name_or_path or getattr(arguments, "dataset", None)
    if not getattr(arguments, "eval_dataset", None) or not has_own:
        return []
    return [path for source in _find_split(arguments, "dev", stage) for path in source.files]


@dataclass(frozen=True)
class RowFilter:
    """Which rows of the training files belong to a split, told from the row alone: equal rows are on one side."""

    threshold: int
    """The largest digest of a dev row."""
    wants_dev: bool

    def __call__(self, row: dict) -> bool:
        return (digest(row) <= self.threshold) == self.wants_dev


def digest(row: dict) -> int:
    """64 bits that depend on what the row says, not on where it stands or the order of its keys."""
    text = json.dumps(row, sort_keys=True, default=str)
    return int.from_bytes(blake2b(text.encode("ascii"), digest_size=8).digest(), "big")


def row_filter(sources: Sequence[FoundSource], arguments, split: str) -> Optional[RowFilter]:
    """The filter of a split, None without val_size. Reads all rows once.

    The dev split is the val_size rows of the smallest digests (a part of all rows, below 1; at least one row), and any
    that equal the last of them.

    Raises:
        DataError: val_size leaves nothing to train on.
    """
    size = getattr(arguments, "val_size", None)
    if not size or (split == "dev" and getattr(arguments, "eval_dataset", None)):
        return None
    rows = (row for row, _ in chain.from_iterable(rows_by_source(sources, arguments.max_samples, Problems())))
    digests = np.fromiter(map(digest, rows), dtype=np.uint64)
    num_dev = max(int(round(size * len(digests))), 1) if size < 1 else int(size)
    if num_dev >= len(digests):
        raise DataError(f"val_size takes {num_dev:,} rows, and the training data has {len(digests):,}; lower it")
    threshold = np.partition(digests, num_dev - 1)[num_dev - 1]
    if (digests <= threshold).all():
        raise DataError("val_size leaves nothing to train on: the rows that it would leave equal those that it takes")
    return RowFilter(int(threshold), split == "dev")


def rows_by_source(
    sources: Sequence[FoundSource], max_samples: Optional[int], problems: Problems
) -> Iterator[Iterator[Row]]:
    """The rows of each source, read in this order; `max_samples` holds for all together, and counts rows."""
    left = max_samples
    for source in sources:
        counted = _Counted(read_rows(source.files, source.limit(left), problems))
        yield iter(counted)
        left = None if left is None else left - counted.num


class _Counted:
    """Iterates over something and counts."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows, self.num = rows, 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.num += 1
            yield row


def read_sources(
    sources: Sequence[FoundSource],
    max_samples: Optional[int] = None,
    belongs: Optional[Callable[[dict], bool]] = None,
) -> FoundRecords:
    """The records of all rows that belong, of all sources one after another.

    Raises:
        DataError: every bad line and row at once.
    """
    problems = Problems()
    unused: Counter = Counter()
    records: list = []
    notes: List[str] = []
    for source, rows in zip(sources, rows_by_source(sources, max_samples, problems)):
        reader = RowReader(source.stage, source.layout)
        for row, place in rows:
            if belongs is not None and not belongs(row):
                continue
            try:
                record, keys = reader.read(row, place)
            except DataError as error:
                problems.add(str(error))
                continue
            records.append(record)
            unused.update(keys)
        notes += [f"{source.name}: {line}" if source.name else line for line in reader.lines()]
    files = [path for source in sources for path in source.files]
    problems.raise_any(str(files[0].parent if len(files) > 1 else files[0]))
    return FoundRecords(records, tuple(unused.most_common()), tuple(notes))
