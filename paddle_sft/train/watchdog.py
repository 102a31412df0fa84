"""Ends a run that stands still, and says which rank holds it up."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import sys
import threading
import time
import traceback
from typing import Any, Callable, Iterator, List, Mapping, Optional

from paddle_sft.parallel.lost import SECONDS
from paddle_sft.train.heartbeats import Beat, Radio

EXIT_HUNG = 124
"""As of timeout(1)."""
FIRST_STEP = 4
"""The first step may take so many times as long: memory is taken, operators are built, files are read first."""
_TALKS = (os.path.join("paddle", "distributed"), os.path.join("paddle_sft", "parallel"))
"""Where the innermost frame of a rank is that waits for another."""
_COMPUTES = os.path.join("fleet", "recompute")


class Watchdog:
    """A thread that looks at the main thread's progress and hears of the other ranks'.

    A rank that goes on says `mark`; saving is a `pause`, however long it takes. When no rank has gone on for `limit`
    seconds, or one of them has been silent that long, the process prints its Python stack and ends with EXIT_HUNG:
    first the rank that holds the others up, a little later (the launcher may have ended them by then) the others.

    Args:
        limit: seconds; 0 makes a watchdog that does nothing.
        radio: the other ranks.
        end: what ends the process; takes the exit code.
    """

    def __init__(self, limit: float, rank: int, radio: Radio, end: Callable[[int], Any] = os._exit) -> None:
        self._limit = limit
        self._interval = min(5.0, max(limit / 20, 0.1))
        self._rank = rank
        self._radio = radio
        self._end = end
        self._now = 0.0
        """Seconds that this thread was awake: a job that was stopped and goes on (a suspended one) is not late."""
        self._here = Beat(rank, 0, "the first step")
        self._since = 0.0
        self._first_step: Optional[int] = None
        self._factor = FIRST_STEP
        self._others = {other: Beat(other, 0, "the first step") for other in radio.others}
        self._heard = dict.fromkeys(radio.others, 0.0)
        """A rank may stop before it was heard once."""
        self._is_on = False
        self._done = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def mark(self, step: int, phase: str) -> None:
        """The main thread goes on: with step number `step`, from 1."""
        if not self._is_on:
            return
        self._first_step = step if self._first_step is None else self._first_step
        self._factor = FIRST_STEP if step == self._first_step else 1
        self._here = Beat(self._rank, step, phase, self._here.order + 1)
        self._since = self._now

    @contextlib.contextmanager
    def pause(self, phase: str) -> Iterator[None]:
        """Something begins that may take as long as it likes."""
        before = self._here
        self._here = Beat(self._rank, before.step, phase, before.order + 1, is_long=True)
        try:
            yield
        finally:
            self.mark(before.step, before.phase)

    def __enter__(self) -> Watchdog:
        self._is_on = True
        if self._limit > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._is_on = False
        self._done.set()
        if self._limit > 0:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
        for _ in range(3):  # one may be lost
            self._radio.send(Beat(self._rank, self._here.step, "done", is_done=True))
        self._radio.close()

    # ---- the thread --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._done.wait(self._interval):
            now = time.monotonic()
            self._now += min(now - last, 2 * self._interval)
            last = now
            self.look()

    def look(self) -> None:
        """One beat: tell the others, hear them, and see whether the run goes on."""
        self._leave_a_word()
        here = self.beat()
        self._radio.send(here)
        for beat in self._radio.heard():
            self._others[beat.rank], self._heard[beat.rank] = beat, self._now
        if self._stands_still(here):
            self._speak(here)

    def beat(self) -> Beat:
        """Where this rank is now."""
        frame = sys._current_frames().get(self._main)
        code = frame.f_code if frame else None
        place = f"{code.co_filename}:{frame.f_lineno} {code.co_name}" if code else ""
        waits = any(part in place for part in _TALKS) and _COMPUTES not in place
        here = self._here
        return Beat(
            here.rank, here.step, here.phase, here.order, self._now - self._since, here.is_long, waits, place[-200:]
        )

    def _leave_a_word(self) -> None:
        """If this thread gets no turn (an extension keeps Python's lock), the C side still writes the stack."""
        with contextlib.suppress(ValueError, OSError, AttributeError):  # no real stderr
            later = self._limit * self._factor + 2 * self._interval
            faulthandler.dump_traceback_later(later, file=sys.__stderr__)

    def _stands_still(self, here: Beat) -> bool:
        if any(self._is_silent(rank, self._limit * self._patience_with(rank)) for rank in self._others):
            return True
        others = [beat for beat in self._others.values() if not beat.is_done]
        if here.is_long or any(beat.is_long for beat in others):
            return False
        return min([here.seconds, *(beat.seconds for beat in others)]) > self._limit * self._factor

    def _is_silent(self, rank: int, seconds: float) -> bool:
        return not self._others[rank].is_done and self._now - self._heard[rank] > seconds

    def _patience_with(self, rank: int) -> int:
        """A rank that was never heard may be on its way to the first step still."""
        return 1 if self._heard[rank] else FIRST_STEP

    def _speak(self, here: Beat) -> None:
        """Say who holds the run up, then end; the others give way to that rank."""
        seconds = min(self._limit, max(4 * self._interval, SECONDS))
        silent = {rank: self._now - self._heard[rank] for rank in self._others if self._is_silent(rank, seconds)}
        stuck = who_is_stuck({self._rank: here, **self._others}, silent)
        if stuck != [self._rank] and self._others:
            self._give_way()
        frame = sys._current_frames().get(self._main)
        lines = [f"Python stack of rank {self._rank}:", *(traceback.format_stack(frame) if frame else [])]
        for rank in stuck:
            if rank != self._rank:
                lines += self._radio.about(rank)
        lines.append(report(stuck, {self._rank: here, **self._others}, silent))  # last: launchers show the end of a log
        stream = sys.__stderr__ or sys.stderr
        print("\n".join(line.rstrip("\n") for line in lines), file=stream, flush=True)
        self._end(EXIT_HUNG)

    def _give_way(self) -> None:
        """Wait for the launcher, which ends this rank when it sees that the other one has ended. Heard all the while:
        else the other one, which may be slower to see that the run stands still, would take this one for it."""
        for _ in range(math.ceil(max(4 * self._interval, SECONDS) / self._interval)):
            self._leave_a_word()
            self._radio.send(self.beat())
            time.sleep(self._interval)


def who_is_stuck(beats: Mapping[int, Beat], silent: Mapping[int, float]) -> List[int]:
    """Ranks that hold the others up: the silent ones; else those that don't wait for others and are farthest behind;
    else the farthest behind."""
    if silent:
        return sorted(silent)
    left = {rank: beat for rank, beat in beats.items() if not beat.is_done}
    busy = {rank: beat for rank, beat in left.items() if not beat.waits} or left
    least = min((beat.step, beat.order) for beat in busy.values())
    return sorted(rank for rank, beat in busy.items() if (beat.step, beat.order) == least)


def report(stuck: List[int], beats: Mapping[int, Beat], silent: Mapping[int, float]) -> str:
    """What a user reads: who, since when, where; then a line for each rank."""
    ranks = f"rank {stuck[0]}" if len(stuck) == 1 else f"ranks {', '.join(map(str, stuck))}"
    lines = [
        f"error: the run stands still: {ranks} {_what(stuck, silent)}; the last checkpoint is whole, and the same "
        "command goes on from it (hang_timeout says how long is too long)"
    ]
    for rank, beat in sorted(beats.items()):
        heard = f"silent for {silent[rank]:.0f} s; before that: " if rank in silent else ""
        lines.append(f"  rank {rank}: {heard}{beat.text()}")
    return "\n".join(lines)


def _what(stuck: List[int], silent: Mapping[int, float]) -> str:
    if stuck and stuck[0] in silent:
        return "no longer answers (stopped, or its machine is gone)"
    return "makes no progress" if len(stuck) == 1 else "make no progress"
