"""Gradients of all ranks together: their sum, their norm."""

from __future__ import annotations

import math
from typing import Any, List, Optional, Sequence

import numpy as np
import paddle

_BUCKET = 25_000_000  # numbers in one message: 100 MB of float32, enough to fill a link, little beside a model


def sum_over_ranks(parameters: Sequence[paddle.Tensor], group: Optional[Any] = None) -> None:
    """Add up the gradients of all ranks, or of those of a group, in place.

    Each rank divided its loss by the trained tokens of all ranks, so the sum is the exact gradient. A rank that had
    no sample in this step adds zeros.
    """
    bucket: List[paddle.Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = paddle.zeros_like(parameter)
        bucket.append(parameter)
        size += int(np.prod(parameter.shape))
        if size >= _BUCKET:
            _sum_bucket(bucket, group)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket, group)


def global_norm(parameters: Sequence[paddle.Tensor]) -> float:
    """Euclidean norm of all gradients together; NaN or infinite as soon as one number is."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = [gradient.astype("float32").square().sum() for gradient in found]
    return math.sqrt(float(paddle.add_n(squares))) if squares else 0.0


def _sum_bucket(parameters: List[paddle.Tensor], group: Optional[Any]) -> None:
    flat = paddle.concat([parameter.grad.reshape([-1]) for parameter in parameters])
    paddle.distributed.all_reduce(flat, group=group)
    parts = paddle.split(flat, [int(np.prod(parameter.shape)) for parameter in parameters])
    for parameter, part in zip(parameters, parts):
        parameter.grad.set_value(part.reshape(parameter.shape))
