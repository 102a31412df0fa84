"""What Paddle's gloo back end lacks for hybrid parallelism on CPU processes, piece by piece, and what puts it in place.

Each piece was needed for paddlepaddle 3.3.1; tests/parallel/test_cpu_backend.py has an alarm for each. Nothing here is
active on a GPU: there the real operators do the work.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any, Callable, Dict

import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer
from paddle.base import core
from paddle.distributed import ParallelEnv, collective, parallel
from paddle.distributed.fleet.meta_parallel.pp_utils import p2p_communication

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.core.log import address
from paddle_sft.parallel import cpu_collectives
from paddle_sft.parallel.cpu_messages import Messages

TIMEOUT = 900
"""Seconds a rank waits for the others of a group."""
_installed: Dict[str, Any] = {}


def install() -> None:
    """Put every piece in its place, before `fleet.init`; a second call changes nothing.

    Raises:
        PaddleSFTError: a Paddle that computes on a GPU or another device.
    """
    if paddle.get_device() != "cpu":
        raise PaddleSFTError(
            f"the CPU back end was asked for on {paddle.get_device()}; it is for ranks without a GPU: set device to cpu"
        )
    if _installed:
        return
    _installed["groups"] = groups = GroupStores(collective._new_process_group_impl)
    collective._new_process_group_impl = parallel._new_process_group_impl = groups
    cpu_collectives.install(core.ProcessGroupGloo)
    _C_ops.c_identity = copy_to_ranks
    _C_ops.c_concat = gather_columns
    ParallelEnv._device_id = 0  # PipelineLayer asks for it; no rank of gloo has one
    messages = Messages(groups.number_of)
    core.ProcessGroupGloo.send, core.ProcessGroupGloo.recv = messages.send, messages.receive
    p2p_communication.batch_send_recv_on_calc_stream = messages.exchange


class GroupStores:
    """Makes process groups, each with a store of its own.

    The constructor of gloo's group writes the addresses of its ranks under the keys 0, 1, ... of the store it is given.
    With one store for all groups, the ranks of one read those of another, and wait for ever.
    """

    def __init__(self, make: Callable) -> None:
        self._make = make
        self._numbers: Dict[int, int] = {}
        self._kept: list = []

    def __call__(
        self, backend: str, store: Any, rank: int, size: int, *rest: Any, group_id: int = 0, **options: Any
    ) -> Any:
        if backend == "gloo" and group_id != 0:
            store = _own_store(rank, f"paddle_sft/group/{group_id}/{os.environ.get('PADDLE_RESTART_ID', '0')}")
        send_at_once()
        made = self._make(backend, store, rank, size, *rest, group_id=group_id, **options)
        self._numbers[id(made)] = group_id
        self._kept.append((made, store))  # while it lives, no other group gets its id
        return made

    def number_of(self, group: Any) -> int:
        """The number of a group, the same on all its ranks."""
        return self._numbers[id(group)]


def send_at_once() -> None:
    """Let this process's connections not wait for company (Nagle's algorithm).

    A request to Paddle's store is two small writes. Without this the second waits until the other end confirms the
    first, 44 ms on Linux: each message between pipeline stages took 88 ms, and a group of four ranks 0.3 s to make.
    """
    folder = Path("/proc/self/fd")
    for number in os.listdir(folder) if folder.is_dir() else ():
        try:
            if not os.readlink(folder / number).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(number))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            continue  # closed since it was listed, or no connection of TCP


def _own_store(rank: int, key: str) -> Any:
    """A store for the ranks of one group; its first rank listens, and then says where in the store of all.

    Who asks before anybody listens tries again three seconds later. So the store is told to wait for one rank, which is
    the one that makes it.
    """
    if rank == 0:
        host = address()
        port = _free_port()
        store = core.TCPStore(host, port, True, 1, TIMEOUT)
        collective._default_store.set(key, f"{host}:{port}".encode())
        return store
    host, port = bytes(collective._default_store.get(key)).decode().split(":")
    return core.TCPStore(host, int(port), False, 1, TIMEOUT)


def _free_port() -> int:
    """Of those that no connection takes by itself (Linux: from 32768), because a store ends its process by a signal if
    its port is taken."""
    numbers = random.SystemRandom()
    while True:
        port = numbers.randrange(20_000, 30_000)
        with socket.socket() as tried:
            try:
                tried.bind(("", port))
                return port
            except OSError:
                continue  # somebody listens there


def copy_to_ranks(tensor: Tensor, ring_id: int, *_: Any) -> Tensor:
    """The operator c_identity, whose CPU kernel only throws. Its gradient is Paddle's c_identity_eager."""
    return tensor.clone()


def gather_columns(tensor: Tensor, rank: int, num_ranks: int, ring_id: int, *_: Any) -> Tensor:
    """The operator c_concat, whose CPU kernel only throws: [..., C] of each rank -> [..., num_ranks * C] on all."""
    return _GatherColumns.apply(tensor, rank, num_ranks, ring_id)


class _GatherColumns(PyLayer):
    """Every rank goes on with the same numbers, so the gradient of its part is its part of the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, num_ranks: int, ring_id: int) -> Tensor:
        ctx.part = rank, num_ranks
        group = collective._get_group_map()[ring_id].process_group
        return paddle.concat(list(cpu_collectives.gather_all(group, tensor).unbind(0)), axis=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rank, num_ranks = ctx.part
        return paddle.split(gradient, num_ranks, axis=-1)[rank].clone()
