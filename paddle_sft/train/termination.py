"""SIGTERM: the step is finished, a checkpoint is saved, the process ends with exit code 143."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Termination:
    """Notes SIGTERM while it is entered; elsewhere the signal ends the process at once, as ever.

    Schedulers send it before a machine goes (Slurm, Kubernetes), to one process of a job or to all. Ranks have to stop
    after the same step, so `asked` is what this rank was told and `agreed` what all of them know (train.guard).
    """

    def __init__(self) -> None:
        self.asked = False
        self.agreed = False
        self._before: Any = None
        self._is_noting = False

    def __enter__(self) -> Termination:
        self._is_noting = threading.current_thread() is threading.main_thread()  # Python allows handlers there only
        if self._is_noting:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._is_noting:  # None: a handler that is not Python's own
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)

    def _note(self, *_: Any) -> None:
        """Nothing else: it runs between any two instructions of the main thread."""
        self.asked = True
