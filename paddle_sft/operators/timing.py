"""The compiled operators under a profile: each call is an event of Paddle's profiler, and its work is counted."""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any, Callable, Dict

from paddle.profiler import RecordEvent

PREFIX = "compiled "
"""Of the names of events, so that they are told from Paddle's operators."""


def _of_linears(rows: int, size: int, table: Any) -> float:
    """Of y = x W + (x A) B for all layers of a table."""
    return sum(2.0 * rows * (size * one.out + one.rank * (size + one.out)) for one in table)


def _linears_grad(x: int, rows: int, size: int, table: Any, count: int, for_x: Any) -> float:
    """By x as much as in the forward pass; beside it W, if it is trained, and the factors."""
    trained = sum(2.0 * rows * size * one.out for one in table if one.for_weight)
    factors = sum(2.0 * rows * one.rank * (size + one.out) for one in table)
    return (_of_linears(rows, size, table) if for_x else 0.0) + trained + factors


def _pairs(starts: int, segments: int, heads: int, size: int, *rest: Any) -> float:
    """Operations of one product of queries and keys below the diagonal, over all segments and heads."""
    *_, asking, positions = rest
    begins = _numbers(asking or starts, segments + 1)
    if asking:
        seen = 2.0 * sum(_numbers(positions, begins[-1])) + begins[-1]
    else:
        seen = sum(float(end - begin) ** 2 for begin, end in zip(begins, begins[1:]))
    return seen * heads * size


def _numbers(address: int, count: int) -> Any:
    return (ctypes.c_int64 * count).from_address(address)


OPERATIONS: Dict[str, Callable[..., float]] = {
    "product": lambda a, b, c, m, n, k, *rest: 2.0 * m * n * k,
    "linears": lambda x, rows, size, table, count: _of_linears(rows, size, table),
    "linears_grad": _linears_grad,
    "attention": lambda *given: 2.0 * _pairs(*given[5:8], *given[9:]),
    "attention_grad": lambda *given: 5.0 * _pairs(*given[9:12], *given[13:]),
}
"""Name -> floating-point operations of a call, from its arguments: what the maths needs, a product of parts as one."""

BYTES: Dict[str, Callable[..., float]] = {
    "rms_norm": lambda x, weight, y, inverse, rows, size, epsilon: 8.0 * rows * size,
    "rms_norm_grad": lambda *given: 12.0 * given[-2] * given[-1],
    "rotary": lambda x, cos, sin, y, tokens, heads, size, *rest: 8.0 * tokens * heads * size,
    "swiglu": lambda gate, up, y, count: 12.0 * count,
    "swiglu_grad": lambda *given: 20.0 * given[-1],
    "cross_entropy_in_place": lambda scores, labels, rows, size: 8.0 * rows * size,
}
"""Name -> bytes that a call has to read and write."""


class TimedOperators:
    """Stands in for the library; `work` is operations or bytes by the operator's name."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.work: Counter = Counter()

    def __getattr__(self, name: str) -> Callable:
        function = getattr(self._library, name)
        count = OPERATIONS.get(name) or BYTES.get(name)

        def timed(*arguments: Any) -> Any:
            if count is not None:
                self.work[name] += count(*arguments)
            with RecordEvent(PREFIX + name):
                return function(*arguments)

        return timed
