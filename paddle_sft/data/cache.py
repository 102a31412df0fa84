"""Tokenised samples that are kept between runs: a folder for each key, whole or not there at all.

One process makes a folder while all others that want it wait for its lock: ranks of a run, and other runs. The lock is
the operating system's, so it is gone when its holder is, however that ended.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

from paddle_sft.core.atomic import atomic_folder, damage, write_json
from paddle_sft.core.log import get_logger, rank
from paddle_sft.data.store import SampleStore, StoreWriter

ABOUT = "samples.json"
OFF = "none"
"""Value of data_cache_dir that keeps nothing."""
SAYS_AFTER, SAYS_AGAIN = 2.0, 30.0
"""Seconds of waiting for another process until that is said, and until it is said again."""
_LEFT_BEHIND = ".unfinished-"
UNUSED_DAYS = 30
"""Samples that no run has used for so long are removed when others are made."""

About = Dict[str, Any]
Fill = Callable[[StoreWriter], About]
"""Adds the samples; returns what is to be kept beside them, in JSON values."""


@dataclass(frozen=True)
class Kept:
    """Samples, what was kept beside them, and where they are now, in words."""

    samples: SampleStore
    about: About
    where: str


def cache_root(data_cache_dir: Optional[str]) -> Optional[Path]:
    """The folder of all kept samples: the given one, or paddle_sft/samples in the user's cache folder; None: off."""
    if data_cache_dir == OFF:
        return None
    if data_cache_dir:
        return Path(data_cache_dir).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "paddle_sft" / "samples"


def read_or_make(root: Path, key: str, fill: Fill, source_names: Sequence[str], overwrite: bool = False) -> Kept:
    """The samples of `key`: mapped from their folder, or made now and kept there.

    A folder that is damaged is made again. Where nothing can be written (no room, no permission) that is said and the
    samples are kept in memory. With `overwrite` a folder that is older than this call is made again.
    """
    newer_than = time.time() if overwrite else 0.0
    folder, lock = root / key, root / f".lock-{key}"
    kept, _ = _read(folder, newer_than)
    if kept is not None:
        return kept
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        return _in_memory(root, fill, source_names, error)
    with locked(lock):
        kept, problem = _read(folder, newer_than)
        if kept is not None:
            return kept
        if problem:
            get_logger().warning("tokenised samples that were kept are damaged and are made again: %s", problem)
        _clear(root, key)
        return _make(folder, fill, source_names)


def _read(folder: Path, newer_than: float) -> Tuple[Optional[Kept], str]:
    """(what is kept there, what is wrong with it)."""
    if not folder.is_dir():
        return None, ""
    problems = damage(folder)
    if problems:
        return None, problems[0]
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["made_at"] < newer_than:
            return None, ""
        with contextlib.suppress(OSError):  # a cache that others filled for us to read
            os.utime(folder)
        return Kept(SampleStore.open(folder), about["about"], f"{_in_words(folder)}, made {about['made']}"), ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{folder}: {type(error).__name__}: {error}"


def _make(folder: Path, fill: Fill, source_names: Sequence[str]) -> Kept:
    made = None
    try:
        with atomic_folder(folder, is_lasting=False) as beside:
            writer = StoreWriter(beside, source_names)
            about = fill(writer)
            made = writer.finish(), about
            if writer.folder is None:
                raise _NotKept
            now = {"made_at": time.time(), "made": time.strftime("%Y-%m-%d %H:%M:%S"), "about": about}
            write_json(beside / ABOUT, now, is_lasting=False)
    except _NotKept:
        return Kept(*made, "in memory")
    except OSError as error:
        if made is None:
            return _in_memory(folder.parent, fill, source_names, error)
        # its files are unlinked by now, and stay on the disk as long as they are mapped
        _say_not_kept(folder, error)
        return Kept(*made, "in files that go with this process")
    return Kept(*made, f"{_in_words(folder)}, made by this run")


class _NotKept(Exception):
    """The writer had to go on in memory."""


def _in_memory(root: Path, fill: Fill, source_names: Sequence[str], error: OSError) -> Kept:
    _say_not_kept(root, error)
    writer = StoreWriter(None, source_names)
    about = fill(writer)
    return Kept(writer.finish(), about, "in memory")


def _say_not_kept(folder: Path, error: OSError) -> None:
    get_logger().warning(
        "tokenised samples can't be kept in %s (%s): the run goes on, and the next one tokenises again; free space, or "
        "set data_cache_dir",
        folder,
        error.strerror or error,
    )


def _in_words(folder: Path) -> str:
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return f"{folder} ({num_bytes / 1e6:,.1f} MB)"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; say whom one waits for. Where nothing can be locked, say so and go on."""
    try:
        file = open(path, "rb+", buffering=0)
    except OSError as error:  # another user's
        _say_not_locked(path, error)
        yield
        return
    with file:
        _wait_for(file, path)
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "rank": rank()})
        with contextlib.suppress(OSError):  # the disk is full; then nobody is told whom he waits for
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), holder.encode("utf-8"), 0)
        yield


def _wait_for(file: IO[bytes], path: Path) -> None:
    import fcntl

    began, said_at, pause = time.monotonic(), 0.0, 0.02
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                _say_not_locked(path, error)
                return
        waited = time.monotonic() - began
        if waited >= SAYS_AFTER and waited - said_at >= (SAYS_AGAIN if said_at else 0.0):
            said_at = waited
            get_logger().info("waiting for %s, which tokenises the same data (%.0f s so far)", _holder(path), waited)
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _say_not_locked(path: Path, error: OSError) -> None:
    get_logger().warning("%s can't be locked (%s); other runs may tokenise the same", path, error.strerror or error)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} (rank {holder['rank']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _clear(root: Path, key: str) -> None:
    """Remove what processes that were killed left behind, and what was not used for long. `key` is our own."""
    unused_since = time.time() - UNUSED_DAYS * 86400
    for folder in root.iterdir():
        is_left = folder.name.startswith(_LEFT_BEHIND)
        theirs = folder.name.rpartition("-")[2]
        with contextlib.suppress(OSError):  # another process may clear at the same time
            is_old = (folder / ABOUT).is_file() and folder.stat().st_mtime < unused_since
            if theirs != key and (is_left or is_old) and _is_free(root / f".lock-{theirs}"):
                shutil.rmtree(folder, ignore_errors=True)


def _is_free(lock: Path) -> bool:
    import fcntl

    try:
        with open(lock, "r+", encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
