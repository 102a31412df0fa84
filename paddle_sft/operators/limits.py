"""What this machine reaches at best with the compiled operators: the limits of a profile."""

from __future__ import annotations

import time
from typing import Callable

import paddle

from paddle_sft.operators.build import load_operators

_SIDE, _NUMBERS, _RUNS = 1024, 2**20, 7


def operations_per_second() -> float:
    """Floating-point operations of a float32 product of 1,024 x 1,024 x 1,024, the best of some runs."""
    a, b, c = (paddle.zeros([_SIDE, _SIDE]).uniform_(-1, 1) for _ in range(3))
    pointers = (a.data_ptr(), b.data_ptr(), c.data_ptr())
    return 2 * _SIDE**3 / _best(lambda: load_operators().product(*pointers, _SIDE, _SIDE, _SIDE, 0, 0, 1.0, 0))


def bytes_per_second() -> float:
    """Bytes read and written by a copy of 4 MiB, about what a step's arrays have, on all threads."""
    source, target = paddle.ones([_NUMBERS]), paddle.zeros([_NUMBERS])
    heads = _NUMBERS // 64
    pointers = (source.data_ptr(), source.data_ptr(), source.data_ptr(), target.data_ptr())
    # rotary positions of which no number turns are a copy
    return 8 * _NUMBERS / _best(lambda: load_operators().rotary(*pointers, heads, 1, 64, 0, 0))


def _best(step: Callable[[], object]) -> float:
    """Seconds."""
    taken = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return min(taken)
