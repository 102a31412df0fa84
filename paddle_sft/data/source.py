"""Finds the data files of a split and reads them row by row, each row with the place where it stands.

A data set is a folder with `train.json` or `train/*.json`, and `dev.json` or `dev/*.json` (`.jsonl` is the same
thing), or one file, which is then the training split. A file holds JSON lines (one object a line; blank lines don't
count) or one JSON array of objects, told apart by the first character. UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple, Union

from paddle_sft.core.errors import DataError
from paddle_sft.data.problems import Problems

SPLITS = ("train", "dev")
SUFFIXES = (".json", ".jsonl")
NOT_YET = (".gz", ".zst", ".bz2", ".xz", ".zip", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
"""File kinds that are refused by name rather than read as broken JSON."""

_NEWLINE = b"\n"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_REMEDY = 'write one complete JSON object on one line, such as {"src": "...", "tgt": "..."}'

Row = Tuple[dict, str]


def find_files(dataset_name_or_path: Union[str, os.PathLike, None], split: str) -> List[Path]:
    """The files of a split, sorted by name; [] for a dev split that isn't there (the caller knows if it is needed).

    Files whose names begin with a dot are left alone: editors and macOS leave such copies behind.

    Raises:
        DataError: nothing there, no training file, two spellings of one split side by side, or a kind of file that
            can't be read yet.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, allowed: {', '.join(SPLITS)}")
    if not dataset_name_or_path:
        raise DataError(f"dataset_name_or_path is not given; set it to {_wanted('train')}")
    root = Path(dataset_name_or_path).expanduser()
    if root.is_dir():
        return _find_in_folder(root, split)
    if not os.path.lexists(root):
        raise DataError(
            f"dataset_name_or_path is {str(dataset_name_or_path)!r}: there is no such file or folder (and no built-in "
            f"data set has that name). Give {_wanted('train')}."
        )
    _refuse_unreadable_kind(root)
    return [root] if split == "train" else []


def _wanted(split: str) -> str:
    return f"a folder with {split}.json or {split}/*.json (or .jsonl), or one JSON-lines file"


def _find_in_folder(root: Path, split: str) -> List[Path]:
    names = [split + suffix for suffix in SUFFIXES] + [split]
    found = [root / name for name in names if os.path.lexists(root / name)]
    if len(found) > 1:
        given = " and ".join(_label(path) for path in found)
        raise DataError(f"{root} has {given}; only one may hold the {split} split. Remove or rename the others.")
    if not found:
        if split == "train":
            raise DataError(
                f"{root} has no training data: looked for train.json, train.jsonl, train/*.json, train/*.jsonl; "
                f"there is {_listing(root)}. Rename the data file to train.json, or give the file itself as "
                "dataset_name_or_path."
            )
        return []
    path = found[0]
    if path.name != split:
        if path.is_dir():
            raise DataError(f"{path} is a folder, a file is needed; rename the folder to {path.with_suffix('')}.")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} is a file, a folder is needed; rename the file to {split}.json.")
    parts = sorted(entry for entry in _entries(path) if entry.suffix in SUFFIXES)
    if not parts:
        raise DataError(f"{path} has no *.json or *.jsonl file; there is {_listing(path)}. Put the data files there.")
    return parts


def _entries(folder: Path) -> List[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} can't be listed ({error.strerror}); check its permissions.") from None


def _label(path: Path) -> str:
    return path.name + "/" if path.is_dir() else path.name


def _listing(folder: Path) -> str:
    names = sorted(_label(entry) for entry in _entries(folder))
    if not names:
        return "nothing in it"
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _refuse_unreadable_kind(path: Path) -> None:
    if path.suffix.lower() in NOT_YET:
        raise DataError(f"{path}: {path.suffix} files are not available yet; convert it to JSON lines (.json).")


def read_rows(
    files: Sequence[Path], max_samples: Optional[int] = None, problems: Optional[Problems] = None
) -> Iterator[Row]:
    """Yield (row, place) in file order; `place` reads "train.json line 17" or, in a JSON array, "train.json item 3".

    `max_samples` takes the first rows, over all files. A bad line counts as a row, is left out and noted. With
    `problems` the caller raises when it has gathered its own; without, the end of the iteration raises.

    Raises:
        DataError: every bad line at once (the first 20 in words, and their number), after the good ones.
    """
    gathered = Problems() if problems is None else problems
    for row, place in islice(_read_all(files, gathered), max_samples):
        if row is not None:
            yield row, place
    if problems is None:
        gathered.raise_any(", ".join(str(path) for path in files))


def _read_all(files: Sequence[Path], problems: Problems) -> Iterator[Tuple[Optional[dict], str]]:
    """Like `read_rows`, with (None, place) for a bad line, so that it counts for `max_samples`."""
    for path in files:
        name = f"{path.parent.name}/{path.name}" if path.parent.name in SPLITS else path.name
        try:
            with open(path, "rb") as stream:
                yield from _read_stream(stream, name, problems)
        except IsADirectoryError:
            problems.add(f"{name} is a folder, a file is needed; rename or remove the folder")
        except OSError as error:
            problems.add(f"{name} can't be read ({error.strerror or error}); check that it exists and its permissions")


def _read_stream(stream, name: str, problems: Problems) -> Iterator[Tuple[Optional[dict], str]]:
    num_rows = 0
    offset = 0
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith(_UTF16_MARKS):
            problems.add(f"{name} is not UTF-8, it begins with a UTF-16 byte order mark; save it as UTF-8")
            return
        mark = len(_UTF8_MARK) if number == 1 and line.startswith(_UTF8_MARK) else 0
        content = line[mark:].strip()
        if content.startswith(b"[") and not num_rows:
            stream.seek(0)
            yield from _read_array(stream.read(), name, problems)
            return
        if content:
            num_rows += 1
            start = offset + mark + line[mark:].index(content)
            place = f"{name} line {number}"
            text = _decode(content, place, start, problems)
            yield (None if text is None else _parse_line(text, place, problems)), place
        offset += len(line)
    if not num_rows:
        problems.add(f"{name} is empty; {_REMEDY}")


def _decode(content: bytes, place: str, start: int, problems: Problems) -> Optional[str]:
    """The text of `content`, which begins `start` bytes into the file."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        offset = start + error.start
        problems.add(f"{place}: not UTF-8, byte 0x{byte:02x} at offset {offset} of the file; save it as UTF-8")
        return None


def _parse_line(text: str, place: str, problems: Problems) -> Optional[dict]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problems.add(f"{place}: not valid JSON ({error.msg}, column {error.colno}); {_REMEDY}")
        return None
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deep
        problems.add(f"{place}: JSON that can't be read ({error}); {_REMEDY}")
        return None
    return _require_object(value, place, problems)


def _read_array(content: bytes, name: str, problems: Problems) -> Iterator[Tuple[Optional[dict], str]]:
    why = f"{name} begins with '[', so it is read as one JSON array of objects"
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the byte order mark
        start = error.start + (len(_UTF8_MARK) if content.startswith(_UTF8_MARK) else 0)
        place = f"{name} line {content.count(_NEWLINE, 0, start) + 1}"
        byte = content[start]
        problems.add(f"{place}: not UTF-8, byte 0x{byte:02x} at offset {start} of the file; save it as UTF-8")
        return
    except json.JSONDecodeError as error:
        problems.add(
            f"{name} line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}). "
            f"{why}; mend it, or {_REMEDY}"
        )
        return
    except (ValueError, RecursionError) as error:
        problems.add(f"{name} line 1: JSON that can't be read ({error}). {why}; mend it, or {_REMEDY}")
        return
    if not values:
        problems.add(f"{name} is empty: it holds the array []; {_REMEDY}")
    for number, value in enumerate(values, start=1):
        place = f"{name} item {number}"
        yield _require_object(value, place, problems), place


def _require_object(value: object, place: str, problems: Problems) -> Optional[dict]:
    if isinstance(value, dict):
        return value
    problems.add(f"{place}: {kind_of(value)} where an object is needed; {_REMEDY}")
    return None


def kind_of(value: object) -> str:
    """What JSON calls a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
