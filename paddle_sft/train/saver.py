"""When checkpoints are written: in the step that saves, or by a thread while training goes on (`use_async_save`)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Tuple

from paddle import Tensor

from paddle_sft.core.later import Action
from paddle_sft.core.log import get_logger
from paddle_sft.parallel.agree import agree
from paddle_sft.parallel.groups import gather_objects
from paddle_sft.train.checkpoint import (
    Progress,
    RunState,
    remove_old,
    save_checkpoint,
    take_checkpoint,
)
from paddle_sft.train.saving import Part, save
from paddle_sft.train.team import Team


class Saver:
    """The checkpoints of a run. All ranks call its methods, at the same places; the first rank writes.

    Args:
        limit: how many are kept; None for all.
        is_async: a save copies everything to the first rank's memory, where one save at a time waits to be written.
        cleans: whether this rank removes old checkpoints from a disk that the first rank does not see. They are from
            before a restart, when the first rank was on this machine.
    """

    def __init__(
        self, output_dir: Path, limit: Optional[int], is_async: bool, team: Team, cleans: bool = False
    ) -> None:
        self._output_dir = output_dir
        self._limit = limit
        self._is_async = is_async
        self._team = team
        self._cleans = cleans
        self._last: Tuple[Path, Optional[str]] = (output_dir, None)
        """The folder of the last save, and the name of the best one at that time."""
        self._is_open = False
        """Whether a save was begun of which not all ranks know how it ended."""
        self._writer: Optional[_Writer] = None

    def save(self, weights: Any, optimizer: Mapping[str, Tensor], state: RunState, progress: Progress) -> None:
        """Save checkpoint-N, N being the number of steps done.

        Raises:
            CheckpointError: it can't be written, or the one before it could not; older checkpoints are untouched.
        """
        self.finish()
        folder = self._output_dir / f"checkpoint-{progress.global_step}"
        best = progress.best_checkpoint

        def keep(weights: Part, optimizer: Part) -> None:
            if self._is_async:
                write = take_checkpoint(folder, weights, optimizer, state, progress)
                self._writer = _Writer(lambda: (write(), remove_old(folder, self._limit, best)))
            else:
                save_checkpoint(folder, weights, optimizer, state, progress)
                remove_old(folder, self._limit, best)

        save(self._team, weights, optimizer, keep)
        self._last = (folder, best)
        self._is_open = self._is_async
        if not self._is_async:
            self._clean()

    def check(self) -> None:
        """Between steps: see whether the writer is done.

        Raises:
            CheckpointError: it failed; the words are those of `save`.
        """
        if not self._is_open:
            return
        is_done = self._writer is not None and not self._writer.is_alive()
        if gather_objects(is_done, self._team.groups.world if self._team.groups else None)[0]:
            self.finish()

    def finish(self) -> None:
        """Wait for the writer.

        Raises:
            CheckpointError: it failed.
        """
        if not self._is_open:
            return
        self._is_open = False
        writer, self._writer = self._writer, None
        agree(self._team.groups, writer.wait() if writer is not None else None)
        self._clean()

    def _clean(self) -> None:
        """All ranks know that the last save is whole."""
        if not self._cleans:
            return
        folder, best = self._last
        try:
            remove_old(folder, self._limit, best)
        except OSError as error:  # of no use to the run, and no rank waits to hear of it
            get_logger().warning("can't remove old checkpoints of %s: %s", folder.parent, error)

    def close(self) -> None:
        """The run ends, perhaps by an error on this rank alone: wait for the writer here, and for no other rank."""
        if self._writer is None:
            return
        failure = self._writer.wait()
        if failure is not None:
            get_logger().error("%s", failure)
        self._is_open, self._writer = False, None


class _Writer(threading.Thread):
    """Writes, and keeps what it failed with. The process does not end before it."""

    def __init__(self, write: Callable[[], Any]) -> None:
        super().__init__(name="checkpoint writer")
        self._write: Optional[Action] = write
        self._failure: Optional[BaseException] = None
        self.start()

    def run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            self._failure = error
        self._write = None

    def wait(self) -> Optional[BaseException]:
        """Until it is done; returns what it failed with."""
        self.join()
        return self._failure
