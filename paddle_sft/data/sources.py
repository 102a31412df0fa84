"""The data sets that a run names: their files, and the records that a stage makes of their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.formats import Layout, RowReader, read_columns
from paddle_sft.data.problems import Problems
from paddle_sft.data.registry import resolve_datasets
from paddle_sft.data.source import find_files, read_rows


@dataclass(frozen=True)
class FoundSource:
    """The files of one source and split, and how their rows look."""

    files: Tuple[Path, ...]
    layout: Layout
    name: str = ""


@dataclass(frozen=True)
class FoundRecords:
    """The records of a stage, in file order."""

    records: list
    unused_keys: Tuple[Tuple[str, int], ...]
    notes: Tuple[str, ...]


def find_sources(arguments, split: str) -> List[FoundSource]:
    """The sources of a split: what `dataset` names in the registry, or else dataset_name_or_path.

    Raises:
        DataError: nothing there, or both are given.
        ArgumentError: an unknown name, format or column; weights, which need mixing.
    """
    layout = Layout(getattr(arguments, "data_format", None), read_columns(getattr(arguments, "columns", None)))
    names, path = getattr(arguments, "dataset", None), arguments.dataset_name_or_path
    if not names:
        found = [FoundSource(tuple(find_files(path, split)), layout)]
        missing = f"{path} has no {split} data: looked for {split}.json and {split}/*.json (or .jsonl) in a folder."
    else:
        if path or layout != Layout():
            raise ArgumentError(
                "dataset names data sets of the registry, which says path, format and columns; leave out "
                "dataset_name_or_path, data_format and columns"
            )
        named = resolve_datasets(names, getattr(arguments, "dataset_dir", None))
        heavy = [source.name for source in named if source.weight != 1]
        if heavy:
            raise ArgumentError(f"weights of data sets ({', '.join(heavy)}) are not available yet; set weight to 1")
        found = [FoundSource(tuple(source.files(split)), source.layout, source.name) for source in named]
        missing = f"none of the data sets {', '.join(source.name for source in named)} has {split} data."
    found = [source for source in found if source.files]
    if not found:
        raise DataError(f"{missing} Add it, or switch evaluation off.")
    return found


def read_sources(sources: Sequence[FoundSource], stage: str, max_samples: Optional[int] = None) -> FoundRecords:
    """What `stage` trains on, of all rows of all sources one after another. `max_samples` holds for all together.

    Raises:
        DataError: every bad line and row at once.
    """
    problems = Problems()
    unused: Counter = Counter()
    records: list = []
    notes: List[str] = []
    for source in sources:
        reader = RowReader(stage, source.layout)
        left = None if max_samples is None else max_samples - len(records)
        for row, place in read_rows(source.files, left, problems):
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
