"""Starting a run of one or several ranks, and killing some of it: as a user's command, or by forking, which spares the
seconds of imports."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

ROOT = Path(__file__).resolve().parents[2]
GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL for the ranks that are left when one has failed, as in Paddle's launcher."""


def clean_environment() -> Dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PADDLE_", "CUDA_VISIBLE"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class CommandJob:
    """A user's command: run_finetune.py, or the launcher in front of it."""

    def __init__(self, file: Path, ranks: int, log: Path) -> None:
        log.mkdir(parents=True, exist_ok=True)
        words = [str(ROOT / "run_finetune.py"), str(file)]
        if ranks > 1:
            words = ["-m", "paddle_sft", "launch", "--nproc", str(ranks), "--log_dir", str(log), *words]
        self._ranks = ranks
        self._output = open(log / "command.log", "ab")
        self._process = subprocess.Popen(
            [sys.executable, *words], cwd=log, env=clean_environment(), stdout=self._output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def ranks(self) -> List[int]:
        """Process ids, by number; fewer while they are being started."""
        if self._ranks == 1:
            return [self._process.pid]
        return ranks_below(self._process.pid)

    def processes(self) -> List[int]:
        """The ranks and what started them."""
        return [self._process.pid, *descendants(self._process.pid)]

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        try:
            return self._process.wait(seconds)
        finally:
            self._output.close()


class ForkedJob:
    """The same ranks as forks of this process, which has imported paddle and computed nothing. It stands in for the
    launcher: when a rank fails, the others get SIGTERM and then SIGKILL."""

    def __init__(self, file: Path, ranks: int, log: Path) -> None:
        log.mkdir(parents=True, exist_ok=True)
        ports = [_free_port() for _ in range(ranks)]
        self._codes: Dict[int, int] = {}
        self._pids: List[int] = []
        for rank in range(ranks):
            self._pids.append(_fork(lambda rank=rank: _be_rank(rank, ports, file, log)))

    def ranks(self) -> List[int]:
        return [pid for pid in self._pids if pid not in self._codes]

    processes = ranks

    def is_running(self) -> bool:
        for pid in self.ranks():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._codes[pid] = _exit_code(status)
        return bool(self.ranks())

    def wait(self, seconds: float) -> int:
        limit = time.monotonic() + seconds
        stop_at = None
        while self.is_running():
            now = time.monotonic()
            if now > limit:
                raise subprocess.TimeoutExpired("forked ranks", seconds)
            if stop_at is None and any(self._codes.values()):
                stop_at = now + GRACE
                self._signal(signal.SIGTERM)
            elif stop_at is not None and now > stop_at:
                self._signal(signal.SIGKILL)
            time.sleep(0.005)
        return next((code for code in self._codes.values() if code), 0)

    def _signal(self, number: int) -> None:
        for pid in self.ranks():
            os.kill(pid, number)


def _fork(work: Callable[[], int]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_rank(rank: int, ports: List[int], file: Path, log: Path) -> int:
    from paddle_sft.cli.entry import run
    from paddle_sft.core.parent import die_with_parent

    die_with_parent()
    with open(log / f"workerlog.{rank}", "ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if len(ports) > 1:
        ends = [f"127.0.0.1:{port}" for port in ports]
        os.environ.update(
            PADDLE_TRAINER_ID=str(rank), PADDLE_TRAINERS_NUM=str(len(ports)), PADDLE_CURRENT_ENDPOINT=ends[rank],
            PADDLE_TRAINER_ENDPOINTS=",".join(ends), PADDLE_MASTER=ends[0], PADDLE_DISTRI_BACKEND="gloo",
            PADDLE_LOCAL_RANK=str(rank), PADDLE_RANK_IN_NODE=str(rank), PADDLE_LOG_DIR=str(log),
        )  # fmt: skip
    return run("paddle_sft.cli.finetune", [str(file)])


def in_fork(work: Callable[[], object]) -> None:
    """Do something in a child that this process must not do itself."""
    _, status = os.waitpid(_fork(lambda: 0 if work() is not None else 1), 0)
    if status:
        raise RuntimeError(f"the child ended with {_exit_code(status)}")


def _exit_code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def descendants(pid: int) -> List[int]:
    """Children of a process, theirs, and so on, by number (Linux)."""
    parents: Dict[int, List[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(after_name[1]), []).append(int(folder.name))
    found, ahead = [], [pid]
    while ahead:
        children = parents.get(ahead.pop(), [])
        found += children
        ahead += children
    return sorted(found)


def ranks_below(pid: int) -> List[int]:
    """Ranks that a process, or one that it started, has launched, by number."""
    found: Dict[int, int] = {}
    for one in descendants(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            environment = (Path("/proc") / str(one) / "environ").read_bytes()
            match = re.search(rb"(?:^|\0)PADDLE_TRAINER_ID=(\d+)\0", environment)
            if match:
                found.setdefault(int(match.group(1)), one)
    return [found[rank] for rank in sorted(found)]


def kill(pids: List[int], number: int = signal.SIGKILL) -> int:
    """Send a signal; returns how many processes got it."""
    hit = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            hit += 1
    return hit
