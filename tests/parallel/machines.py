"""Machines for tests: network namespaces on this one, each with its own address, and launchers in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

ROOT = Path(__file__).parents[2]
MARK = os.getpid() % 10000
NETWORK = "10.99.7"
SECONDS = 240


def why_not() -> Optional[str]:
    """Why this machine can't make network namespaces; None if it can."""
    if shutil.which("ip") is None:
        return "there is no command ip (Debian: iproute2)"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    tried = subprocess.run(["ip", "netns", "add", f"sft{MARK}x"], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces are impossible here: {tried.stderr.strip()}"
    _ip(f"netns del sft{MARK}x")
    return None


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


@contextlib.contextmanager
def two_machines() -> Iterator[Dict[str, str]]:
    """Two namespaces with a cable between them: name -> address."""
    names = [f"sft{MARK}a", f"sft{MARK}b"]
    try:
        for name in names:
            _ip(f"netns add {name}")
        _ip(f"link add {names[0]}v netns {names[0]} type veth peer name {names[1]}v netns {names[1]}")
        for number, name in enumerate(names, start=1):
            _ip(f"-n {name} addr add {NETWORK}.{number}/24 dev {name}v")
            _ip(f"-n {name} link set {name}v up")
            _ip(f"-n {name} link set lo up")
        yield {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=1)}
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Launcher:
    """`paddle-sft launch` on one machine."""

    def __init__(self, words: Sequence[str], folder: Path, name: str, namespace: str = "") -> None:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE", "GLOO_"))}
        environment["PYTHONPATH"] = str(ROOT)
        environment["OMP_NUM_THREADS"] = "1"
        self.logs = folder / f"log-{name}"
        self._said = folder / f"said-{name}.txt"
        program = str(ROOT / "paddle_sft" / "__main__.py")
        command = [*inside, sys.executable, program, "launch", "--log_dir", str(self.logs), *words]
        with open(self._said, "w", encoding="utf-8") as said:
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=said, stderr=said)

    def wait(self, seconds: float = SECONDS) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not over after {seconds} s:\n{self.said[-4000:]}") from None

    @property
    def said(self) -> str:
        """All that it printed."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    @property
    def note(self) -> str:
        """What `paddle-sft launch` itself said last, and the lines below it."""
        return self.said[self.said.rfind("\nlaunch: ") :]

    def ranks(self) -> List[int]:
        """Process ids of its ranks that run."""
        return [pid for pid, environment in _environments() if f"PADDLE_LOG_DIR={self.logs}" in environment]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """The launcher, as a machine that loses its power loses it."""
        if self.process.poll() is None:
            self.process.send_signal(number)


def _environments() -> Iterator[Tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(folder.name), (folder / "environ").read_bytes().decode(errors="replace")


def wait_for(what: Callable[[], bool], launchers: Sequence[Launcher] = (), seconds: float = SECONDS) -> None:
    """Until `what()` is true; a launcher that ends before that is a failure."""
    end = time.monotonic() + seconds
    while not what():
        said = "\n".join(launcher.said[-2000:] for launcher in launchers)
        assert time.monotonic() < end, f"it never came:\n{said}"
        assert all(launcher.process.poll() is None for launcher in launchers), said
        time.sleep(0.1)
