"""Folders and files that are there whole or not at all: write beside, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.later import perform

MANIFEST = "manifest.json"
"""Size and CRC-32 of every file of a folder, written last: a folder without it is not complete."""
_UNFINISHED = ".unfinished-"


def write_json(path: Path, content: object, is_lasting: bool = True) -> None:
    """Write JSON beside `path`, then rename it there. Keys keep their order; text stays readable (UTF-8)."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    perform(lambda: _write_text(path, text + "\n", is_lasting))


def _write_text(path: Path, text: str, is_lasting: bool) -> None:
    beside = path.with_name(f"{_UNFINISHED}{path.name}")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if is_lasting:
            os.fsync(file.fileno())
    os.replace(beside, path)


@contextlib.contextmanager
def atomic_folder(target: Path, is_lasting: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it gets a manifest and takes the name `target`.

    An existing `target` is replaced only then. After an error nothing of the new folder is left, and an existing
    `target` is as it was. What can be made again need not be lasting: then nothing waits for the disk, and what a
    power failure leaves of it is told by `damage`.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _bring_back(target)
    beside = target.with_name(f"{_UNFINISHED}{target.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        if is_lasting:
            _sync_files(beside)
        write_json(beside / MANIFEST, _describe(beside), is_lasting)
        if is_lasting:
            _sync_folder(beside)
        _take_place(beside, target, is_lasting)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _old(target: Path) -> Path:
    return target.with_name(f"{_UNFINISHED}old-{target.name}")


def _bring_back(target: Path) -> None:
    """After a kill between the two renames of `_take_place` the old folder has its side name only."""
    if _old(target).exists() and not target.exists():
        os.rename(_old(target), target)


def bring_back_all(parent: Path) -> None:
    """The same for every folder in `parent`; what was replaced already goes."""
    for old in Path(parent).glob(f"{_UNFINISHED}old-*"):
        _bring_back(old.with_name(old.name[len(f"{_UNFINISHED}old-") :]))
        shutil.rmtree(old, ignore_errors=True)


def unfinished(parent: Path) -> List[Path]:
    """Folders in `parent` that `atomic_folder` began and did not finish, because the process was killed."""
    return sorted(path for path in Path(parent).glob(f"{_UNFINISHED}*") if path.is_dir())


def unfinished_name(path: Path) -> Path:
    """The name that an unfinished folder would have got."""
    return path.with_name(path.name[len(_UNFINISHED) :])


def _take_place(beside: Path, target: Path, is_lasting: bool) -> None:
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(beside, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    if is_lasting:
        _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _describe(folder: Path) -> Dict[str, dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": _checksum(path)} for path in files
    }


def _checksum(path: Path) -> str:
    """CRC-32 of a file (about 1 GB/s): meant for damage, not for malice."""
    total = 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            total = zlib.crc32(block, total)
    return f"{total:08x}"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damage(folder: Path) -> List[str]:
    """What is wrong with a folder that `atomic_folder` wrote; empty when it is whole. Reads all of it."""
    return _damage(folder, _difference)


def quick_damage(folder: Path) -> List[str]:
    """The same from the sizes alone, without reading the files."""
    return _damage(folder, lambda path, num_bytes, _: _wrong_size(path, num_bytes))


def _damage(folder: Path, compare: Callable[[Path, int, str], str]) -> List[str]:
    if not (Path(folder) / MANIFEST).is_file():
        return [f"{folder} has no {MANIFEST}: it was never finished, or is not of this suite"]
    try:
        files = _read_manifest(folder)
    except (ValueError, AttributeError, TypeError, KeyError):
        return [f"{Path(folder) / MANIFEST} is not readable as a list of files"]
    found = [compare(Path(folder) / name, *expected) for name, expected in files.items()]
    return [problem for problem in found if problem]


def damage_of_file(folder: Path, name: str) -> str:
    """What is wrong with one file of a folder; empty when it is whole, or the folder has no manifest that lists it."""
    try:
        expected = _read_manifest(folder).get(name)
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return ""  # another program's file of this name
    return _difference(Path(folder) / name, *expected) if expected else ""


def _read_manifest(folder: Path) -> Dict[str, Tuple[int, str]]:
    content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    return {name: (entry["bytes"], entry["crc32"]) for name, entry in content.items()}


def _difference(path: Path, num_bytes: int, checksum: str) -> str:
    wrong = _wrong_size(path, num_bytes)
    if wrong or _checksum(path) == checksum:
        return wrong
    return f"{path} was changed after it was written (checksum)"


def _wrong_size(path: Path, num_bytes: int) -> str:
    if not path.is_file():
        return f"{path} is missing"
    found = path.stat().st_size
    return "" if found == num_bytes else f"{path} has {found:,} bytes, {num_bytes:,} were written"


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT, errno.ENOTDIR)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say in a user's words that `folder` can't be written any more.

    Raises:
        CheckpointError: in place of an OSError that is about the disk: full, read-only, gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f"{folder} ({error.filename})" if error.filename else str(folder)
        raise CheckpointError(
            f"can't write (or read) {place}: {error.strerror}; free space (or choose another folder) and run the same "
            "command again"
        ) from error


def require_writable(folder: Path) -> None:
    """Fail now, not at the first save.

    Raises:
        CheckpointError: the folder can't be created or written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        probe = Path(folder) / f"{_UNFINISHED}probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"can't write into {folder}: {error.strerror}; choose another output folder") from error


@contextlib.contextmanager
def move_into(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder`; on success its files are moved up, one rename each.

    For results that lie beside other things. A reader sees each file whole, old or new.
    """
    beside = Path(folder) / f"{_UNFINISHED}result"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in sorted(beside.iterdir()):
            os.replace(path, Path(folder) / path.name)
        _sync_folder(Path(folder))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
