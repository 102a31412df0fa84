"""Finds the data files of a split and reads them row by row, each row with the place where it stands.

A data set is a folder with `train.json` or `train/*.json`, and `dev.json` or `dev/*.json`; or one file, a glob or a
list of these, which is then the training split. Kinds of file, by the end of their names: JSON (.json and .jsonl are
the same thing: one object a line, or one array), CSV (.csv), Parquet (.parquet); JSON and CSV also as .gz and .zst.
UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import zlib
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Iterator, List, Optional, Sequence, Tuple, Union

from paddle_sft.core.errors import DataError
from paddle_sft.data.json_rows import FoundRow, RawLine, parse_line, read_json
from paddle_sft.data.problems import Problems
from paddle_sft.data.table_rows import read_csv, read_parquet

SPLITS = ("train", "dev")
PACKED = (".gz", ".zst")
SUFFIXES = (*(f"{kind}{packed}" for packed in ("", *PACKED) for kind in (".json", ".jsonl", ".csv")), ".parquet")
"""Ends of the names of the files that are read, most usual first."""
NOT_YET = (".bz2", ".xz", ".zip", ".tsv", ".arrow", ".xlsx", ".txt", ".pdf", ".docx")
"""File kinds that are refused by name rather than read as broken JSON."""

_ZST_BYTES = 1 << 14
"""Compressed bytes that are unpacked at a time: what they become may be some thousand times as much."""

Row = Tuple[dict, str]
Given = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]], None]


def find_files(dataset_name_or_path: Given, split: str) -> List[Path]:
    """The files of a split, sorted by name; [] for a dev split that isn't there (the caller knows if it is needed).

    Of a list, the files of each entry in its order. Files whose names begin with a dot are left alone: editors and
    macOS leave such copies behind.

    Raises:
        DataError: nothing there, no training file, two spellings of one split side by side, or a kind of file that
            can't be read yet.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, allowed: {', '.join(SPLITS)}")
    if not dataset_name_or_path:
        raise DataError(f"dataset_name_or_path is not given; set it to {_wanted('train')}")
    if not isinstance(dataset_name_or_path, (str, os.PathLike)):
        return _find_in_list(dataset_name_or_path, split)
    root = Path(dataset_name_or_path).expanduser()
    if root.is_dir():
        return _find_in_folder(root, split)
    if not os.path.lexists(root):
        if glob.has_magic(str(root)):
            return _find_by_glob(root) if split == "train" else []
        raise DataError(
            f"dataset_name_or_path is {str(dataset_name_or_path)!r}: there is no such file or folder (and no built-in "
            f"data set has that name). Give {_wanted('train')}."
        )
    _refuse_unreadable_kind(root)
    return [root] if split == "train" else []


def _wanted(split: str) -> str:
    return f"a folder with {split}.json or {split}/*.json (or .jsonl), or one JSON-lines file"


def _find_in_list(entries: Sequence[Union[str, os.PathLike]], split: str) -> List[Path]:
    found: List[Path] = []
    for entry in entries:
        for path in find_files(entry, split):
            if path in found:
                raise DataError(f"dataset_name_or_path names {path} twice; its rows would count twice. Remove one.")
            found.append(path)
    return found


def _find_by_glob(pattern: Path) -> List[Path]:
    paths = [Path(path) for path in sorted(glob.glob(str(pattern), recursive=True))]
    files = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise DataError(f"dataset_name_or_path is {str(pattern)!r}: no file has such a name. Check the pattern.")
    for path in files:
        _refuse_unreadable_kind(path)
    return files


def _find_in_folder(root: Path, split: str) -> List[Path]:
    names = [split + suffix for suffix in SUFFIXES] + [split]
    found = [root / name for name in names if os.path.lexists(root / name)]
    if len(found) > 1:
        given = " and ".join(_label(path) for path in found)
        raise DataError(f"{root} has {given}; only one may hold the {split} split. Remove or rename the others.")
    if not found:
        if split == "train":
            raise DataError(
                f"{root} has no training data: looked for train.json, train.jsonl, train/*.json, train/*.jsonl and the "
                f"same as .csv, .parquet, .gz, .zst; there is {_listing(root)}. Rename the data file to train.json, or "
                "give the file itself as dataset_name_or_path."
            )
        return []
    path = found[0]
    if path.name != split:
        if path.is_dir():
            raise DataError(f"{path} is a folder, a file is needed; rename the folder to {path.with_suffix('')}.")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} is a file, a folder is needed; rename the file to {split}.json.")
    parts = sorted(entry for entry in _entries(path) if entry.name.endswith(SUFFIXES))
    if not parts:
        raise DataError(
            f"{path} has no *.json or *.jsonl file (nor .csv, .parquet, .gz, .zst); there is {_listing(path)}. Put the "
            "data files there."
        )
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
    """Yield (row, place) in file order; `place` reads "train.json line 17" or, in an array, "train.json item 3".

    `max_samples` takes the first rows, over all files. A bad line counts as a row, is left out and noted. With
    `problems` the caller raises when it has gathered its own; without, the end of the iteration raises.

    Raises:
        DataError: every bad line at once (the first 20 in words, and their number), after the good ones; a package
            that a kind of file needs is missing.
    """
    gathered = Problems() if problems is None else problems
    items = ((item, path) for path in files for item in read_items(path, gathered))
    for item, path in islice(items, max_samples):
        row, place = parse_line(item, label(path), gathered) if isinstance(item, RawLine) else item
        if row is not None:
            yield row, place
    if problems is None:
        gathered.raise_any(", ".join(str(path) for path in files))


def label(path: Path) -> str:
    """What a file is called in places: its name, with the split's folder if it stands there."""
    return f"{path.parent.name}/{path.name}" if path.parent.name in SPLITS else path.name


def read_items(path: Path, problems: Problems, begin: Optional[RawLine] = None) -> Iterator[Union[RawLine, FoundRow]]:
    """The rows of one file in order: lines of JSON as they are, all others as (row or None, place).

    `begin` is a line of this file that is none of a compressed one: what stands before it isn't read.
    """
    name = label(path)
    try:
        yield from _read_file(path, name, problems, begin)
    except IsADirectoryError:
        problems.add(f"{name} is a folder, a file is needed; rename or remove the folder")
    except (EOFError, zlib.error) as error:
        problems.add(f"{name} ends too early or is damaged ({error}); compress it again")
    except OSError as error:  # gzip.BadGzipFile too
        problems.add(f"{name} can't be read ({error.strerror or error}); check that it exists and its permissions")


def can_begin_anywhere(path: Path) -> bool:
    """Whether `read_items` can begin in the middle of the file."""
    return path.suffix.lower() in (".json", ".jsonl")


def _read_file(
    path: Path, name: str, problems: Problems, begin: Optional[RawLine]
) -> Iterator[Union[RawLine, FoundRow]]:
    if path.suffix.lower() == ".parquet":
        with open(path, "rb"):  # what can't be opened is told in the same words as any other file
            pass
        yield from read_parquet(path, name, problems)
        return
    kind = Path(path.stem).suffix if path.suffix.lower() in PACKED else path.suffix
    with open(path, "rb") as stream:
        if kind.lower() == ".csv":
            yield from read_csv(_unpacked(stream, path), name, problems)
            return
        stream.seek(begin.start if begin else 0)
        yield from read_json(_unpacked(stream, path), name, problems, begin)


def _unpacked(stream: BinaryIO, path: Path) -> BinaryIO:
    """The stream's bytes as they were before compression."""
    if path.suffix.lower() == ".gz":
        return gzip.GzipFile(fileobj=stream)
    if path.suffix.lower() == ".zst":
        return _unpacked_zst(stream, path)
    return stream


def _unpacked_zst(stream: BinaryIO, path: Path) -> BinaryIO:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{path} is compressed with zstd, and reading it needs the package zstandard: pip install zstandard"
        ) from None

    class Reader(io.RawIOBase):
        """The frames of a file. zstandard's own reader takes a file that was cut off for a whole one."""

        def __init__(self) -> None:
            self._frame = None
            self._ready = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            while not self._ready:
                begins = self._frame is None or self._frame.eof
                packed = (self._frame.unused_data if self._frame else b"") if begins else b""
                packed = packed or stream.read(_ZST_BYTES)
                if begins and not packed:
                    return 0
                if begins:
                    self._frame = zstandard.ZstdDecompressor().decompressobj()
                elif not packed:
                    raise EOFError("its last frame is cut off")
                try:
                    self._ready = self._frame.decompress(packed)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from None
            taken, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
            buffer[: len(taken)] = taken
            return len(taken)

    return io.BufferedReader(Reader(), _ZST_BYTES)
