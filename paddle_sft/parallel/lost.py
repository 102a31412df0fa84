"""A rank that lost another one lets that one be found first."""

from __future__ import annotations

import contextlib
import time
from typing import Iterator

from paddle_sft.core.log import get_logger, num_ranks

SECONDS = 5.0
"""Paddle's launcher looks once a second, and takes the first failed rank that it sees for the cause."""
_SIGNS = ("gloo/transport", "tcp_utils", "Connection reset", "Connection closed", "Broken pipe")


@contextlib.contextmanager
def after_the_lost() -> Iterator[None]:
    """Let an error that comes of a broken connection to another rank wait, until the launcher has seen why it broke and
    ends this rank too. Without a launcher the error goes on after SECONDS."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if num_ranks() > 1 and any(sign in str(error) for sign in _SIGNS):
            get_logger().warning("the connection to another rank broke: it has ended, or its machine is gone")
            time.sleep(SECONDS)
        raise
