"""Data sets by name: `dataset_info.json` in the current folder or the data folder says where they are.

{"law": {"path": "law.jsonl", "format": "alpaca", "columns": {"instruction": "ask"}, "split": "train", "weight": 2}}

A path that isn't absolute is taken from the registry's folder. Without `split` a folder gives its own train and dev,
and a file is training data.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from paddle_sft.arguments.mixing import names_of
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.formats import Layout
from paddle_sft.data.row_values import kind_of
from paddle_sft.data.source import SPLITS, find_files

REGISTRY = "dataset_info.json"

Names = Union[str, Sequence[str], Mapping[str, Any]]


@dataclass(frozen=True)
class DataSource:
    """One data set: where it is and how its rows look."""

    name: str
    path: Union[str, Tuple[str, ...]]
    layout: Layout = field(default_factory=Layout)
    split: Optional[str] = None
    """The split that all of it belongs to; None: as its files are laid out."""
    weight: float = 1.0
    """Times that an epoch takes it, where `mixing` says nothing else."""
    max_samples: Optional[int] = None
    """Only its first rows."""

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


def resolve_datasets(names: Names, dataset_dir: Optional[str] = None) -> List[DataSource]:
    """The data sets called `names` ("law,self_cognition", or a list), in that order.

    The registry is `dataset_info.json` of the current folder, or else of `dataset_dir`. An object {name: path} or
    {name: entry} needs none: it is one, whose paths are taken from the current folder.

    Raises:
        DataError: no registry, one that can't be read, or an entry that can't be used.
        ArgumentError: a name that is not in it, or is given twice.
    """
    if isinstance(names, Mapping):
        return _given_entries(names, "dataset")
    wanted = names_of(names)
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
        found.append(_source(name, entries[name], str(file), file.parent))
    return found


def resolve_dev_sets(given: Names, layout: Layout, dataset_dir: Optional[str] = None) -> List[DataSource]:
    """The dev sets in `eval_dataset`: names of the registry, paths (called as their file or folder), or an object
    {name: path}. The rows at a bare path look as `layout` says.

    Raises:
        DataError: neither a name nor a path, or an entry that can't be used.
        ArgumentError: a name twice, or one that can't be part of the name of a metric.
    """
    if isinstance(given, Mapping):
        found = _given_entries(given, "eval_dataset", layout)
    else:
        file = _look_for_registry(dataset_dir)
        entries = _read_registry(file) if file else {}
        wanted = (given,) if isinstance(given, str) and os.path.lexists(given) else names_of(given) or ()
        found = [_dev_set(name, entries, file, layout) for name in wanted]
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f'eval_dataset has two sets called {name!r}; name them with {{"name": "path"}}')
        if not re.fullmatch(r"[\w.-]+", name):
            raise ArgumentError(
                f"eval_dataset has a set called {name!r}, and its metrics are called eval_NAME_loss; use letters, "
                "digits, dots, - and _"
            )
    return [replace(source, split="dev") for source in found]


def _given_entries(given: Mapping[str, Any], key: str, layout: Optional[Layout] = None) -> List[DataSource]:
    found = []
    for name, entry in given.items():
        if isinstance(entry, (str, list)):
            one = _source(name, {"path": entry}, key, Path())
            found.append(replace(one, layout=layout or Layout()))
        else:
            found.append(_source(name, entry, key, Path()))
    return found


def _dev_set(name: str, entries: Mapping[str, Any], file: Optional[Path], layout: Layout) -> DataSource:
    if name in entries:
        source = _source(name, entries[name], str(file), file.parent)
        if source.split == "train":
            raise ArgumentError(f"eval_dataset names {name!r}, which {file} calls training data; name another set")
        return source
    if not os.path.lexists(Path(name).expanduser()):
        near = get_close_matches(name, list(entries), n=1)
        hint = f", did you mean {near[0]!r}?" if near else "; write names of dataset_info.json, or paths"
        raise DataError(f"eval_dataset has {name!r}: there is no such data set, file or folder{hint}")
    return DataSource(Path(name).name.split(".")[0], str(Path(name).expanduser()), layout)


def _find_registry(dataset_dir: Optional[str]) -> Path:
    file = _look_for_registry(dataset_dir)
    if file is None:
        looked = " and ".join(str(folder) for folder in _folders(dataset_dir))
        raise DataError(
            f"dataset names data sets, and there is no {REGISTRY} in {looked}; write one, or set dataset_dir"
        )
    return file


def _look_for_registry(dataset_dir: Optional[str]) -> Optional[Path]:
    files = [folder / REGISTRY for folder in _folders(dataset_dir)]
    return next((file for file in files if file.is_file()), None)


def _folders(dataset_dir: Optional[str]) -> List[Path]:
    return [Path.cwd()] + ([Path(dataset_dir).expanduser()] if dataset_dir else [])


def _read_registry(file: Path) -> Dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} can't be read as JSON ({error})") from None
    if not isinstance(entries, dict):
        raise DataError(f'{file} holds {kind_of(entries)}, an object {{"name": {{"path": ...}}}} is needed')
    return entries


_KEYS = {"path": (str, list), "format": (str,), "columns": (dict,), "split": (str,), "weight": (int, float),
         "max_samples": (int,)}  # fmt: skip


def _source(name: str, entry: Any, file: str, folder: Path) -> DataSource:
    """The entry called `name` of `file`, whose paths start at `folder`."""
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
    max_samples = entry.get("max_samples")
    if max_samples is not None and max_samples < 1:
        raise DataError(f"{where}: max_samples is {max_samples}; a number from 1 on is needed")
    columns = entry.get("columns", {})
    if not all(isinstance(column, str) for column in columns.values()):
        raise DataError(f"{where}: columns has a value that is no string; write {{our key: their column}}")
    try:
        layout = Layout(entry.get("format"), columns)
    except ArgumentError as error:
        raise DataError(f"{where}: {error}") from None
    placed = tuple(str(folder / Path(path).expanduser()) for path in listed)
    return DataSource(name, placed if isinstance(paths, list) else placed[0], layout, split, float(weight), max_samples)
