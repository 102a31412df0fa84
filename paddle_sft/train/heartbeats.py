"""What the ranks of a run tell each other about themselves, several times a minute, in datagrams (UDP).

Neither the store nor files: a store is one rank's, and who asks it while that rank stands still waits with it; files
need a disk that all machines see. A datagram never makes anybody wait, and a lost one is followed by the next.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from paddle_sft.core.log import address
from paddle_sft.parallel.groups import gather_objects

LOG_LINES = 10


@dataclass(frozen=True)
class Beat:
    """Where a rank is."""

    rank: int
    step: int
    phase: str
    """What it does."""
    order: int = 0
    """Places that the run has passed so far, to tell who is behind."""
    seconds: float = 0.0
    """Since it went on last."""
    is_long: bool = False
    """Whether what it does may take as long as it likes."""
    waits: bool = False
    """Whether it waits for other ranks, as far as its Python stack tells."""
    place: str = ""
    """File, line and function that its main thread is in."""
    is_done: bool = False
    """Whether it has nothing more to say."""

    def text(self) -> str:
        waiting = "waits for other ranks, " if self.waits else ""
        return f"step {self.step}, {self.phase}; {waiting}no progress for {self.seconds:.0f} s; at {self.place or '?'}"


class Radio:
    """Sends this rank's beats to the others and hears theirs. All ranks make one, together.

    Args:
        rank: of this process.
        group: all ranks; None for one rank, which talks to nobody.
    """

    def __init__(self, rank: int, group: Optional[Any]) -> None:
        self._rank = rank
        self._addresses: Dict[int, Tuple[str, int]] = {}
        self._homes: List[Dict[str, Any]] = []
        if group is None:
            return
        host = address()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, 0))
        except OSError:  # the address by which others reach this machine need not be its own (a container's host)
            self._socket.bind(("", 0))
        self._socket.setblocking(False)
        me = {"address": (host, self._socket.getsockname()[1]), "machine": socket.gethostname(), "process": os.getpid()}
        me.update(log=_log_file(), token=secrets.token_hex(8))
        self._homes = gather_objects(me, group)
        self._token = self._homes[0]["token"]  # so that a stray datagram of another run is not taken for a beat
        self._addresses = {other: tuple(one["address"]) for other, one in enumerate(self._homes) if other != rank}

    @property
    def others(self) -> List[int]:
        """The other ranks."""
        return list(self._addresses)

    def send(self, beat: Beat) -> None:
        content = json.dumps({"token": self._token, **asdict(beat)}).encode() if self._addresses else b""
        for place in self._addresses.values():
            try:
                self._socket.sendto(content, place)
            except OSError:
                continue  # that rank is gone, or the network is: who hears nothing more says so

    def heard(self) -> List[Beat]:
        """What came since the last call."""
        found: List[Beat] = []
        while self._addresses:
            try:
                content = json.loads(self._socket.recv(4096))
            except (BlockingIOError, ConnectionError):
                break
            except ValueError:
                continue
            if isinstance(content, dict) and content.pop("token", None) == self._token:
                found.append(Beat(**content))
        return found

    def about(self, rank: int) -> List[str]:
        """What can be seen of a rank from outside: the state of its process, and the end of its log. Only on the same
        machine."""
        if not self._homes or self._homes[rank]["machine"] != socket.gethostname():
            return []
        home = self._homes[rank]
        lines = [f"rank {rank} is process {home['process']}, {_state_of(home['process'])}"]
        try:
            log = Path(home["log"]).read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            return lines
        return [*lines, f"the end of {home['log']}:", *(f"  {line}" for line in log)]

    def close(self) -> None:
        if self._addresses:
            self._socket.close()
            self._addresses = {}


def _log_file() -> str:
    """Where Paddle's launcher writes what this rank says."""
    folder, number = os.environ.get("PADDLE_LOG_DIR"), os.environ.get("PADDLE_RANK_IN_NODE")
    return str(Path(folder) / f"workerlog.{number}") if folder and number else ""


def _state_of(process: int) -> str:
    """Such as: T (stopped)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "which is gone"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("State:")), "?")
