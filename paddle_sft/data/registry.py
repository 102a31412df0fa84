"""Data sets by name: `dataset_info.json` in the current folder or the data folder says where they are.

{"law": {"path": "law.jsonl", "format": "alpaca", "columns": {"instruction": "ask"}, "split": "train", "weight": 2}}

A path that isn't absolute is taken from the registry's folder. Without `split` a folder gives its own train and dev,
and a file is training data.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.formats import Layout
from paddle_sft.data.row_values import kind_of
from paddle_sft.data.source import SPLITS, find_files

REGISTRY = "dataset_info.json"


@dataclass(frozen=True)
class DataSource:
    """One data set: where it is and how its rows look."""

    name: str
    path: Union[str, Tuple[str, ...]]
    layout: Layout = field(default_factory=Layout)
    split: Optional[str] = None
    """The split that all of it belongs to; None: as its files are laid out."""
    weight: float = 1.0

    def files(self, split: str) -> List[Path]:
        """Its files of a split, [] where it has none.

        Raises:
            DataError: no such file or folder, or it can't be meant.
        """
        path = self.path if isinstance(self.path, str) else list(self.path)
        if self.split is None:
            return find_files(path, split)
        if self.split != split:
            return []
        return _files_of_one_split(path, split)


def _files_of_one_split(path: Union[str, List[str]], split: str) -> List[Path]:
    """A folder's own files of the split; a file, a glob or a list whatever its name."""
    if isinstance(path, str) and Path(path).expanduser().is_dir():
        return find_files(path, split)
    return find_files(path, "train")


def resolve_datasets(names: Union[str, Sequence[str]], dataset_dir: Optional[str] = None) -> List[DataSource]:
    """The data sets called `names` ("law,self_cognition", or a list), in that order.

    The registry is `dataset_info.json` of the current folder, or else of `dataset_dir`.

    Raises:
        DataError: no registry, one that can't be read, or an entry that can't be used.
        ArgumentError: a name that is not in it, or is given twice.
    """
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    wanted = [name for name in wanted if name]
    if not wanted:
        raise ArgumentError(f"dataset is {names!r}; give names of {REGISTRY}, with commas between them")
    file = _find_registry(dataset_dir)
    entries = _read_registry(file)
    found = []
    for name in wanted:
        if wanted.count(name) > 1:
            raise ArgumentError(
                f"dataset names {name!r} {wanted.count(name)} times; give it a weight in {file} instead"
            )
        if name not in entries:
            near = get_close_matches(name, list(entries), n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise ArgumentError(
                f"dataset names {name!r}, which {file} has not{hint} there: {', '.join(entries) or 'none'}"
            )
        found.append(_source(name, entries[name], file))
    return found


def _find_registry(dataset_dir: Optional[str]) -> Path:
    folders = [Path.cwd()] + ([Path(dataset_dir).expanduser()] if dataset_dir else [])
    for folder in folders:
        if (folder / REGISTRY).is_file():
            return folder / REGISTRY
    looked = " and ".join(str(folder) for folder in folders)
    raise DataError(f"dataset names data sets, and there is no {REGISTRY} in {looked}; write one, or set dataset_dir")


def _read_registry(file: Path) -> Dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} can't be read as JSON ({error})") from None
    if not isinstance(entries, dict):
        raise DataError(f'{file} holds {kind_of(entries)}, an object {{"name": {{"path": ...}}}} is needed')
    return entries


_KEYS = {"path": (str, list), "format": (str,), "columns": (dict,), "split": (str,), "weight": (int, float)}


def _source(name: str, entry: Any, file: Path) -> DataSource:
    where = f"{file}: {name}"
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {kind_of(entry)}, an object with a path is needed")
    for key, value in entry.items():
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else "."
            raise DataError(f"{where} has an unknown key {key!r}{hint} Allowed: {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise DataError(f"{where}: {key} is {kind_of(value)}, which can't be used")
    paths = entry.get("path")
    listed = paths if isinstance(paths, list) else [paths]
    if not listed or not all(isinstance(path, str) and path for path in listed):
        raise DataError(f"{where} has no path; write a file, a folder, a glob or a list of them")
    split, weight = entry.get("split"), entry.get("weight", 1.0)
    if split is not None and split not in SPLITS:
        raise DataError(f"{where}: split is {split!r}; allowed: {', '.join(SPLITS)}")
    if not (weight > 0 and math.isfinite(weight)):
        raise DataError(f"{where}: weight is {weight}; a number above 0 is needed. To leave the set out, don't name it")
    columns = entry.get("columns", {})
    if not all(isinstance(column, str) for column in columns.values()):
        raise DataError(f"{where}: columns has a value that is no string; write {{our key: their column}}")
    try:
        layout = Layout(entry.get("format"), columns)
    except ArgumentError as error:
        raise DataError(f"{where}: {error}") from None
    placed = tuple(str(file.parent / Path(path).expanduser()) for path in listed)
    return DataSource(name, placed if isinstance(paths, list) else placed[0], layout, split, float(weight))
