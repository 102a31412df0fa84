"""Ctrl-C while training: never lost, wherever it strikes."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List


@contextmanager
def noticing_interrupts() -> Iterator[Callable[[], None]]:
    """Gives a function to call between steps: it raises KeyboardInterrupt if one came and was swallowed.

    Python raises KeyboardInterrupt wherever the program is. Where that is Python code that Paddle calls back (a
    gradient, a hook), Paddle 3.3.1 sometimes clears the exception and goes on: a run was seen to end normally after
    Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: None
        return
    seen: List[int] = []
    before = signal.getsignal(signal.SIGINT)

    def strike(number: int, frame: Any) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if seen:
            raise KeyboardInterrupt

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, strike)
    try:
        yield check
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)
