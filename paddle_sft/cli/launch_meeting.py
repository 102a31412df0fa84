"""Where the machines of a job meet: a board at machine 0's --master port, on which each keeps a card.

Paddle's launcher meets there too (its key-value server is what listens), but tells nobody how a machine fares. The
cards say who is missing or wrong before anything starts, and while ranks run that a machine failed, was stopped, or
fell silent.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from paddle_sft.cli.entry import EXIT_TERMINATED
from paddle_sft.cli.launch_nodes import Nodes, Unreachable, address_of, own_address, require_here
from paddle_sft.core.errors import ArgumentError

FOLDER = "/paddle_sft/"
INTERVAL = 1.0
"""Seconds between two looks at the board."""
SILENCE = 30.0
"""Seconds without a sign of life after which a machine is given up."""
PRESENT = 5.0
"""The same while machines gather."""
LINGER = 4.0
"""Seconds that a machine stays after a refusal, so that the others read the same."""
LAST_TRIES = 3
"""How often a machine tries to say how it ended."""
REPORT_EVERY = 30.0


@dataclass(frozen=True)
class Failure:
    """A rank that failed, by its number among all ranks of the job."""

    rank: int
    exit_code: int
    machine: int = 0
    log: str = ""
    lines: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a machine says about itself."""

    id: str
    rank: int
    nnodes: int
    nproc: int
    host: str
    beat: int = 0
    state: str = "waiting"
    """waiting, starting, running, stopping (it was told to stop), ended."""
    code: Optional[int] = None
    failure: Optional[Failure] = None
    met: Tuple[str, ...] = ()
    """The cards it saw when it had waited long enough: those of its job."""

    @classmethod
    def read(cls, text: str) -> Card:
        content = json.loads(text)
        if content["failure"] is not None:
            content["failure"] = Failure(**{**content["failure"], "lines": tuple(content["failure"]["lines"])})
        return cls(**{**content, "met": tuple(content["met"])})


class Heard(NamedTuple):
    """A card of another machine, when it last changed, and whether it was seen to change."""

    card: Card
    when: float
    lives: bool


@dataclass
class Board:
    """The board at host:port, as a machine reads and writes it. No proxy is asked: they stand between networks."""

    address: str
    port: int
    _open: Any = field(default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({})).open)

    def put(self, card: Card) -> None:
        data = json.dumps(asdict(card)).encode()
        with self._open(urllib.request.Request(self._url(card.id), data=data, method="POST"), timeout=5):
            pass

    def cards(self) -> List[Card]:
        with self._open(self._url(""), timeout=5) as answer:
            return [Card.read(text) for text in json.load(answer).values()]

    def _url(self, name: str) -> str:
        return f"http://{self.address}:{self.port}{FOLDER}{name}"


class Meeting:
    """This machine's place in the meeting of all.

    Args:
        say: prints a line for the user.
    """

    def __init__(self, nodes: Nodes, nproc: int, say: Callable[[str], None]) -> None:
        self.nodes, self.say = nodes, say
        self.card = Card(uuid.uuid4().hex, nodes.rank, nodes.count, nproc, "")
        self.master = ""
        self._board: Optional[Board] = None
        self._server: Any = None
        self._heard: Dict[str, Heard] = {}
        self._stop: Optional[Callable[[bool], None]] = None
        self._answered = time.monotonic()
        self._lock, self._looking = threading.Lock(), threading.Lock()

    # ---- before the ranks start ----------------------------------------------------------------------------------

    def gather(self, wait: float) -> None:
        """Wait until all machines are here.

        Raises:
            ArgumentError: they don't go together.
            Unreachable: the master, or a machine, did not come within `wait` seconds.
        """
        end, report = time.monotonic() + wait, time.monotonic() + REPORT_EVERY
        reason = self._arrive()
        while True:
            reason = reason or self._look()
            self._require_one_job()
            present = self._present()
            if not reason and len({card.rank for card in present}) == self.nodes.count - 1:
                self.say_state(state="starting", met=tuple(card.id for card in present))
                threading.Thread(target=self._watch, daemon=True).start()
                return
            if time.monotonic() > end:
                raise Unreachable(self._who_is_missing(reason, wait))
            if time.monotonic() > report:
                self.say(f"still waiting: {reason or self._missing()}; {end - time.monotonic():.0f} s left")
                report += REPORT_EVERY
            time.sleep(min(INTERVAL, 0.1 + wait / 10))
            reason = self._arrive() if reason and self._server is None else ""  # a name may mean another address now

    def _arrive(self) -> str:
        """Find the master; machine 0 becomes it. Returns what stands in the way, if something does."""
        try:
            address = address_of(self.nodes.host)
            if self.nodes.rank == 0:
                require_here(self.nodes, address)
            self.card = replace(self.card, host=own_address(address, self.nodes.port))
        except OSError as error:
            if self.nodes.rank == 0:
                raise ArgumentError(f"--master {self.nodes.master}: {error}; write the address of machine 0") from error
            return str(error)
        if self.nodes.rank == 0:
            self._serve()
        self._board, self.master = Board(address, self.nodes.port), address
        return ""

    def _serve(self) -> None:
        from socketserver import ThreadingMixIn

        from paddle.distributed.launch.utils.kv_server import KVServer  # what Paddle's own launcher would start here

        class Server(ThreadingMixIn, KVServer):
            """One machine that does not read its answer must not keep the others from theirs."""

            daemon_threads = True

        try:
            self._server = Server(self.nodes.port)
        except OSError as error:
            raise ArgumentError(
                f"--master {self.nodes.master}: port {self.nodes.port} can't be opened ({error.strerror}); another job "
                "may have it, or a second machine --rank 0: choose another port"
            ) from error
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _look(self) -> str:
        """Sign of life out, the others' cards in. Returns what stands in the way, if something does."""
        with self._looking:  # else an older card could be put above a newer one
            return self._look_alone()

    def _look_alone(self) -> str:
        with self._lock:
            self.card = replace(self.card, beat=self.card.beat + 1)
            card = self.card
        try:
            self._board.put(card)
            cards = self._board.cards()
        except (OSError, ValueError) as error:  # ValueError: something else than a board answers
            return str(getattr(error, "reason", error))
        self._answered = time.monotonic()
        for one in cards:
            before = self._heard.get(one.id)
            if one.id != card.id and (before is None or before.card.beat != one.beat):
                self._heard[one.id] = Heard(one, self._answered, before is not None)
        return ""

    @property
    def others(self) -> List[Card]:
        """The last that each other machine of the job said."""
        return [heard.card for heard in self._of_job()]

    def _of_job(self) -> List[Heard]:
        return [heard for name, heard in list(self._heard.items()) if name in self.card.met]

    def _present(self) -> List[Card]:
        """Those that are seen to live (a launcher that ended while it waited leaves its card behind) and wait for this
        machine, or did until they saw it."""
        fresh = [one.card for one in self._heard.values() if one.lives and self._answered - one.when < PRESENT]
        return [card for card in fresh if card.state == "waiting" or self.card.id in card.met]

    def _require_one_job(self) -> None:
        """All machines must mean the same job."""
        problem = ""
        present = self._present()
        for card in present:
            if card.nnodes != self.nodes.count:
                problem = (
                    f"--nnodes is {self.nodes.count} here (machine {self.nodes.rank}) and {card.nnodes} on machine "
                )
                problem += f"{card.rank} ({card.host}); give all machines the same"
            elif card.rank == self.nodes.rank:
                problem = f"--rank {card.rank} was given to two machines, {self.card.host} and {card.host}; "
                problem += f"each needs its own, 0 to {self.nodes.count - 1}"
        hosts = {card.rank: card.host for card in (self.card, *present)}
        hidden = [rank for rank, host in hosts.items() if host.startswith("127.")]
        if hidden and len(hidden) < len(hosts):
            problem = f"machine {hidden[0]} knows itself as {hosts[hidden[0]]}, where no other machine reaches it; "
            problem += "write the address of machine 0 into --master instead of its name"
        if problem:
            end = time.monotonic() + LINGER
            while time.monotonic() < end:
                self._look()
                time.sleep(INTERVAL / 2)
            raise ArgumentError(problem)

    def _missing(self) -> str:
        here = {card.rank for card in (self.card, *self._present())}
        missing = "machine " + ", ".join(str(rank) for rank in range(self.nodes.count) if rank not in here)
        started = any(one.lives and one.card.state != "waiting" for one in self._heard.values())
        return missing + (" (they began without this one; end and start all)" if started else "")

    def _who_is_missing(self, reason: str, wait: float) -> str:
        if reason:
            return (
                f"--master {self.nodes.master} did not answer within {wait:g} s ({reason}). Check that machine 0 runs "
                f"this command with --rank 0, that {self.nodes.host} is its address as seen from here, and that no "
                f"firewall closes port {self.nodes.port}; --wait SECONDS waits longer"
            )
        return (
            f"{self._missing()} of {self.nodes.count} did not come within {wait:g} s. Check that every machine runs "
            f"this command with its own --rank, and reaches {self.nodes.master}; --wait SECONDS waits longer"
        )

    # ---- while the ranks run -------------------------------------------------------------------------------------

    def first_rank(self) -> int:
        """The number of this machine's first rank."""
        return sum(card.nproc for card in self.others if card.rank < self.nodes.rank)

    def say_state(self, **changes: Any) -> None:
        """Change this machine's card; the others read it within a second or two."""
        with self._lock:
            self.card = replace(self.card, **changes)

    def on_trouble(self, stop: Callable[[bool], None]) -> None:
        """`stop(was_told)` is called once, when another machine's card says that it is over."""
        self._stop = stop

    @property
    def was_told(self) -> bool:
        """Whether another machine was told to stop, rather than failed."""
        return not self.failures() and any(
            card.state == "stopping" or card.code == EXIT_TERMINATED for card in self.others
        )

    def _watch(self) -> None:
        called = False
        while self.card.state != "ended":
            self._look()
            if not called and self._stop is not None and self.trouble():
                called = True
                self._stop(self.was_told)
            time.sleep(INTERVAL)

    def trouble(self) -> str:
        """Why this machine has to stop, because of another; "" while nothing is wrong."""
        for card in self.others:
            if card.failure is not None:
                return f"rank {card.failure.rank} on machine {card.rank} ({card.host}) failed"
            if card.state == "stopping" or (card.state == "ended" and card.code):
                return f"machine {card.rank} ({card.host}) was stopped"
        for card, when, _ in self._of_job():
            if card.state != "ended" and self._answered - when > SILENCE:
                return f"machine {card.rank} ({card.host}) gave no sign of life for {SILENCE:.0f} s"
        if time.monotonic() - self._answered > SILENCE:
            return f"machine 0 ({self.nodes.master}) did not answer for {SILENCE:.0f} s"
        return ""

    def failures(self) -> List[Failure]:
        """Of all machines, as far as they are known here."""
        found = [card.failure for card in (self.card, *self.others) if card.failure is not None]
        return sorted(found, key=lambda one: (not killed(one.exit_code), one.rank))

    def look_again(self, seconds: float) -> None:
        """Let the others say what they know."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not any(killed(one.exit_code) for one in self.failures()):
            time.sleep(INTERVAL / 2)

    def leave(self, code: int) -> None:
        """Say how it ended; machine 0 stays until the others have said so, too."""
        self.say_state(state="ended", code=code)
        for _ in range(LAST_TRIES if self._board is not None else 0):
            if not self._look():
                break
            time.sleep(INTERVAL)
        if self._server is None:
            return
        while any(one.card.state != "ended" and self._answered - one.when < SILENCE for one in self._of_job()):
            time.sleep(INTERVAL / 2)
            self._look()
        self._server.stopped = True
        self._server.shutdown()
        self._server.server_close()


def killed(exit_code: int) -> bool:
    """Whether a rank was ended by a signal from outside: others fail because of that, not it because of them.

    SIGABRT is how a lost connection may end a rank, and SIGTERM is sent by launchers.
    """
    return exit_code < 0 and exit_code not in (-6, -15)
