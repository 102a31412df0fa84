"""A process that does not outlive who started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def is_launched() -> bool:
    """Whether this process is a rank that Paddle's launcher started."""
    return "PADDLE_LOG_DIR" in os.environ


def die_with_parent() -> None:
    """Let the kernel kill this process (SIGKILL) when its parent ends, however that ends (Linux; nothing elsewhere).

    A rank whose launcher was killed would train on, and the same command started again would be a second run in the
    same output_dir. A kill does not hurt: checkpoints are there whole or not at all.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):  # a libc without prctl
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), signal.SIGKILL)
