"""One of three ranks on two machines, each with a disk of its own: rank 0 on the first, 1 and 2 on the second.

Writes what it saw to rank-N.json; tests/parallel/test_disks.py says what that should be.
"""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import paddle

from paddle_sft.cli.entry import leave
from paddle_sft.core.errors import ModelError, PaddleSFTError
from paddle_sft.core.later import perform
from paddle_sft.parallel.agree import agree, together
from paddle_sft.parallel.groups import start
from paddle_sft.parallel.topology import Layout
from paddle_sft.train import storage as module
from paddle_sft.train.checkpoint import Progress, RunState, last_good, require_best
from paddle_sft.train.saver import Saver
from paddle_sft.train.storage import Storage
from paddle_sft.train.team import Team

SECONDS = 60


def disk_of(root: Path, rank: int) -> Path:
    return root / ("first" if rank == 0 else "second")


def words_of(work) -> str:
    """The name and the words of the error that a user could mend."""
    try:
        work()
    except PaddleSFTError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def refuse() -> None:
    raise ModelError("no model folder here")


class FullDisk:
    """Weights that no disk has room for."""

    def write(self, folder, specs=(), produce=None):
        perform(self._fail)

    def _fail(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def changed_on_the_way(here: bool):
    append = module._append
    if here:
        module._append = lambda path, block: append(path, block ^ 1)
    yield
    module._append = append


def small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def stop_at_next_step(saver: Saver) -> None:
    limit = time.monotonic() + SECONDS
    while time.monotonic() < limit:
        saver.check()
        time.sleep(0.01)


def main(root: Path) -> None:
    paddle.set_device("cpu")
    groups = start(Layout(data=3))
    disk = disk_of(root, groups.rank)
    module._BLOCK = 1000  # so that a file takes several
    storage = Storage(groups, disk)
    everywhere = Storage(groups, root)
    seen = {
        "leads": storage.leads,
        "text": storage.text(),
        "shared": everywhere.is_shared,
        "of shared": everywhere.leads,
    }
    seen["nothing"] = str(Storage(groups, disk / "new").find_resume(None, False))
    found = storage.find_resume(None, False)
    seen["newest"] = (found.relative_to(root).as_posix(), found.is_dir(), (found / "weights").read_bytes()[:1].hex())
    storage.release()
    seen["after release"] = sorted(path.name for path in disk.iterdir())
    best = storage.fetch(disk / "checkpoint-2", require_best)
    seen["best"] = (best.relative_to(root).as_posix(), (best / "weights").read_bytes()[:1].hex())
    storage.release()
    seen["damaged"] = words_of(lambda: storage.find_resume(str(disk / "checkpoint-6"), False))
    seen["gone"] = words_of(lambda: storage.fetch(disk / "checkpoint-9", require_best))
    with changed_on_the_way(groups.rank == 1):
        seen["changed"] = words_of(lambda: storage.fetch(disk / "checkpoint-2", require_best))
    if groups.rank == 1:
        small_files()
    seen["no room"] = words_of(lambda: storage.fetch(disk / "checkpoint-2", require_best))
    seen["together"] = words_of(lambda: together(groups, refuse if groups.rank == 1 else lambda: None))
    agree(groups, None)
    saver = Saver(disk, None, True, Team(groups))
    saver.save(FullDisk(), {}, RunState({}, {}), Progress(8))
    seen["writer"] = words_of(lambda: stop_at_next_step(saver))
    seen["last good"] = str(last_good(disk).name)
    (root / f"rank-{groups.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
