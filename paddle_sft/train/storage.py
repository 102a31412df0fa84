"""Which ranks see the same output_dir, and checkpoints for those that don't see the one with the checkpoint.

A machine may have a disk of its own. Then only the disk of rank 0 gets checkpoints and the result, and a run that goes
on sends the newest checkpoint, from whatever disk has it, to the others: as files, so that every rank reads what one
process would read, and checks the same checksums. Saving is as quick as on a shared disk; going on is rare.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_sft.core.atomic import MANIFEST, damage
from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.log import get_logger
from paddle_sft.parallel.agree import agree
from paddle_sft.parallel.groups import Groups, gather_objects
from paddle_sft.train.checkpoint import find_resume, remove_unfinished, step_of

_RECEIVED = ".received-"
_BLOCK = 64 << 20
"""Bytes sent at a time: what a sending and a receiving rank need beside the model."""


class _Found(NamedTuple):
    """A checkpoint on the disk of one rank."""

    step: int
    manifest: str


class Storage:
    """output_dir as all ranks see it. All ranks make one and call its methods, in the same order.

    Args:
        groups: None for a process that is alone.
    """

    def __init__(self, groups: Optional[Groups], output_dir: Path) -> None:
        self._world = groups.world if groups else None
        self._groups = groups
        self._rank = groups.rank if groups else 0
        self._output_dir = Path(output_dir)
        self._disks = self._probe()
        """Rank -> the first rank that sees the same folder."""

    def _probe(self) -> List[int]:
        if self._world is None:
            return [0]
        token = gather_objects(uuid.uuid4().hex, self._world)[0]
        name = lambda rank: self._output_dir / f".unfinished-probe-{token}-{rank}"  # noqa: E731
        self._output_dir.mkdir(parents=True, exist_ok=True)
        name(self._rank).write_bytes(b"")
        size = len(gather_objects(None, self._world))  # all have written
        first = next(rank for rank in range(size) if name(rank).exists())
        disks = gather_objects(first, self._world)
        name(self._rank).unlink()
        return disks

    @property
    def leads(self) -> bool:
        """Whether this rank is the first of those that see its output_dir."""
        return self._disks[self._rank] == self._rank

    @property
    def is_shared(self) -> bool:
        return set(self._disks) == {0}

    def text(self) -> Tuple[str, str]:
        """What the plan says of it: value, why."""
        others = [rank for rank, disk in enumerate(self._disks) if disk != 0]
        if not others:
            return "seen by all ranks", ""
        who = f"rank{'s' * (len(others) > 1)} {', '.join(map(str, others))}"
        why = f"{who} can't see it: checkpoints and the result are there, and are sent to them when a run goes on"
        return "on the machine of rank 0", why

    def find_resume(self, asked: Any, overwrite: bool) -> Optional[Path]:
        """Where a run starts from (`checkpoint.find_resume`), as a folder that this rank sees.

        Of checkpoints on several disks the newest is taken. A disk that lacks it gets a copy, until `release`.

        Raises:
            CheckpointError: no disk has one, and one of them has a reason not to start afresh.
        """
        here, failure = None, None
        try:
            here = find_resume(self._output_dir, asked, overwrite) if self.leads else None
        except CheckpointError as error:
            failure = error
        found = gather_objects(_describe(here), self._world)
        newest = max((one.step for one in found if one is not None), default=None)
        if newest is None:
            agree(self._groups, failure)
            return None
        source = next(rank for rank, one in enumerate(found) if one is not None and one.step == newest)
        name = gather_objects(here and here.name, self._world)[source]
        own = Path(asked) if isinstance(asked, str) else self._output_dir / name
        return self._from(source, found, here or own, name)

    def fetch(self, folder: Path, check: Callable[[Path], Any]) -> Path:
        """A checkpoint that at least one disk has, as a folder that this rank sees; it is a copy until `release`.

        Raises:
            Exception: what `check(folder)` says of rank 0's, if no disk has a good one.
        """
        here, failure = None, None
        try:
            if self.leads:
                check(folder)
                here = folder
        except CheckpointError as error:
            failure = error
        found = gather_objects(_describe(here), self._world)
        if not any(found):
            agree(self._groups, failure)
        source = next(rank for rank, one in enumerate(found) if one is not None)
        return self._from(source, found, folder, folder.name)

    def release(self) -> None:
        """Remove the copies that were received, once every rank has read them."""
        if self.is_shared:
            return
        gather_objects(None, self._world)
        if self.leads:
            for path in self._output_dir.glob(f"{_RECEIVED}*"):
                shutil.rmtree(path, ignore_errors=True)

    def clean(self) -> None:
        """Remove what killed runs left half written."""
        if self.leads:
            remove_unfinished(self._output_dir)

    def _from(self, source: int, found: List[Optional[_Found]], own: Path, name: str) -> Path:
        """`own`, where this rank's disk has what the source has, else a copy of it."""
        lacking = [rank for rank in sorted(set(self._disks)) if found[rank] != found[source]]
        if not lacking:
            return own
        lacks = self._disks[self._rank] in lacking
        target = self._output_dir / f"{_RECEIVED}{name}"
        if self._rank == source:
            whom = ", ".join(map(str, lacking))
            get_logger().warning("sending %s to the machines of rank %s, which don't see it", own, whom)
        failure = self._copy(source, own, target if self._rank in lacking else None)
        agree(self._groups, failure)
        return target if lacks else own

    def _copy(self, source: int, folder: Path, target: Optional[Path]) -> Optional[BaseException]:
        """Every rank calls it; returns what went wrong here, after taking part to the end."""
        files = gather_objects(_files(folder) if self._rank == source else None, self._world)[source]
        failure: Optional[BaseException] = None
        if target is not None:
            shutil.rmtree(target, ignore_errors=True)
        for name, size in files:
            blocks = self._blocks(folder / name if self._rank == source else None, size, source)
            for block in blocks:
                if target is not None and failure is None:
                    failure = _append(target / name, block)
        if target is not None and failure is None and damage(target):
            failure = CheckpointError(f"{folder.name} did not arrive whole on rank {self._rank}: {damage(target)[0]}")
        return failure

    def _blocks(self, path: Optional[Path], size: int, source: int) -> Iterator[np.ndarray]:
        content = None if path is None else np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        for begin in range(0, max(size, 1), _BLOCK):
            length = min(_BLOCK, size - begin)
            if length == 0:
                yield np.zeros(0, np.uint8)
                continue
            empty = paddle.zeros([length], dtype="uint8")
            tensor = empty if content is None else paddle.to_tensor(np.array(content[begin : begin + length]))
            dist.broadcast(tensor, src=source, group=self._world)
            yield tensor.numpy()


def _describe(folder: Optional[Path]) -> Optional[_Found]:
    return None if folder is None else _Found(step_of(folder), (folder / MANIFEST).read_text(encoding="utf-8"))


def _files(folder: Path) -> List[Tuple[str, int]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found]


def _append(path: Path, block: np.ndarray) -> Optional[BaseException]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(block.data)
    except OSError as error:
        where = f"{os.uname().nodename}, {path.parent}"
        return CheckpointError(f"can't keep a copy of the checkpoint to go on from on {where}: {error.strerror}")
    return None
