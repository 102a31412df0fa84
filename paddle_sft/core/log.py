"""One logger for the whole suite. Rank 0 speaks; the other ranks only warn."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_HANDLER = "paddle_sft"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def get_logger() -> logging.Logger:
    """The suite's logger; the first call sets it up (level from PADDLE_SFT_LOG_LEVEL, default INFO)."""
    logger = logging.getLogger("paddle_sft")
    if any(handler.name == _HANDLER for handler in logger.handlers):  # others may have added handlers of their own
        return logger
    stream = logging.StreamHandler(sys.stderr)
    stream.name = _HANDLER
    stream.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
    logger.addHandler(stream)
    level = os.environ.get("PADDLE_SFT_LOG_LEVEL", "INFO").upper()
    logger.setLevel(level if rank() == 0 else "WARNING")
    logger.propagate = False
    return logger


def set_level(level: str) -> None:
    """log_level: debug, info, warning or error; on other ranks than 0 at least warning."""
    wanted = logging.getLevelName(level.upper())
    get_logger().setLevel(wanted if rank() == 0 else max(wanted, logging.WARNING))


def rank() -> int:
    """The rank that paddle.distributed.launch gave this process, 0 outside of it."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def num_ranks() -> int:
    """How many ranks paddle.distributed.launch started, 1 outside of it."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def address() -> str:
    """Where the other ranks reach this one: a name or a number, without a port."""
    return os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rsplit(":", 1)[0]


def silence_imports() -> None:
    """Paddle and what it imports warn about their own deprecations and missing build tools; a user can mend neither."""
    warnings.filterwarnings(
        "ignore", module=r"paddle|paddlenlp|setuptools|_distutils_hack|pkg_resources|visualdl|matplotlib"
    )
