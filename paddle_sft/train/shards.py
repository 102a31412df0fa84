"""Sharding beyond the optimizer's state (ZeRO: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054).

Stage 2: the sum of a gradient is kept by the rank that updates the weight. It is sent there in the backward pass, as
soon as it and all before it in one fixed order are there, so no rank ever has all gradients, and ranks whose
micro-batches differ still send in the same order.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Set

import paddle
import paddle.distributed as dist
from paddle import Tensor


class GradientShards:
    """The gradients of a step, each on the rank that owns its weight.

    Args:
        parameters: all that are trained, by name.
        owners: name -> rank in the group.
        group: of the ranks that share them out.
    """

    def __init__(self, parameters: Dict[str, Tensor], owners: Dict[str, int], group: Any) -> None:
        self._names = list(parameters)[::-1]  # about as they come in a backward pass
        self._parameters = parameters
        self._owners = owners
        self._group = group
        self._sums: Dict[str, Tensor] = {}
        self._ready: Set[int] = set()
        self._next = 0
        self._is_open = False
        for place, name in enumerate(self._names):
            parameters[name]._register_backward_hook(partial(self._arrived, place))

    def open(self) -> None:
        """A backward pass begins; every rank opens as often, with or without one to do."""
        self._ready, self._next, self._is_open = set(), 0, True

    def close(self) -> None:
        """It has ended: send what is left, zeros where there was no gradient."""
        self._ready = set(range(len(self._names)))
        self._send_ready()
        self._is_open = False

    def hand_over(self) -> None:
        """Put the sums into the weights' gradients, on their owners."""
        for name, total in self._sums.items():
            self._parameters[name].grad = total
        self._sums = {}

    def _arrived(self, place: int, *_: Any) -> None:
        if self._is_open:
            self._ready.add(place)
            self._send_ready()

    @paddle.no_grad()
    def _send_ready(self) -> None:
        while self._next < len(self._names) and self._next in self._ready:
            self._send(self._names[self._next])
            self._next += 1

    def _send(self, name: str) -> None:
        parameter = self._parameters[name]
        gradient = paddle.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
        owner = self._owners[name]
        dist.reduce(gradient, dst=self._group.ranks[owner], group=self._group)
        if owner == self._group.rank:
            self._sums[name] = self._sums[name] + gradient if name in self._sums else gradient.clone()
        parameter.clear_gradient(False)
