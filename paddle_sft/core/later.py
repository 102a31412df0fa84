"""Files whose content is taken now and that are written later, by another thread, while the program goes on."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import Callable, Iterator, List, Optional

Action = Callable[[], object]
_QUEUE: ContextVar[Optional[List[Action]]] = ContextVar("written_later", default=None)


@contextlib.contextmanager
def written_later() -> Iterator[List[Action]]:
    """Within, what writes files (`write_tensors`, `write_json`) only takes their content to memory.

    The files are written when the actions of the list are called, in order.
    """
    queue: List[Action] = []
    token = _QUEUE.set(queue)
    try:
        yield queue
    finally:
        _QUEUE.reset(token)


def perform(action: Action) -> None:
    """Call the action now; within `written_later` in its turn. It must not look at anything that may change."""
    queue = _QUEUE.get()
    if queue is None:
        action()
    else:
        queue.append(action)


def is_later() -> bool:
    return _QUEUE.get() is not None
