"""Messages from one rank to another through the job's key-value store.

A send of gloo waits for its receiver, so two pipeline stages that send to each other wait for ever, and it finds its
receive by the number of calls in the group, which differs between stages. A send to the store doesn't wait, and each
message has a number of its own among those from one rank to another in a group.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.distributed import collective
from paddle.distributed.fleet.meta_parallel.pp_utils import p2p_communication

from paddle_sft.parallel.cpu_collectives import Done


class Messages:
    """Sends and receives of this process."""

    def __init__(self, number_of: Callable[[Any], int]) -> None:
        self._number_of = number_of
        self._counts: Dict[Tuple[int, int, int], int] = {}
        messages = self

        def send(group: Any, tensor: Tensor, receiver: int, sync_op: bool = True) -> Done:
            return messages._send(group, tensor, receiver)

        def receive(group: Any, tensor: Tensor, sender: int, sync_op: bool = True) -> Done:
            return messages._receive(group, tensor, sender)

        self.send, self.receive = send, receive  # plain functions: they become methods of gloo's groups

    def exchange(self, operations: List[Any]) -> None:
        """All sends of a list of pipeline operations, then all its receives."""
        send = p2p_communication._send_on_calc_stream
        for operation in sorted(operations, key=lambda operation: operation.op is not send):
            group = operation.group
            other = group.get_group_rank(operation.peer)
            if operation.op is send:
                self._send(group.process_group, operation.tensor, other)
            else:
                self._receive(group.process_group, operation.tensor, other)

    def _send(self, group: Any, tensor: Tensor, receiver: int) -> Done:
        numbers = np.ascontiguousarray(tensor.detach().numpy())
        collective._default_store.set(self._key(group, group.rank(), receiver), numbers.tobytes())
        return Done()

    def _receive(self, group: Any, tensor: Tensor, sender: int) -> Done:
        key = self._key(group, sender, group.rank())
        content = bytes(collective._default_store.get(key))
        collective._default_store.set(key, b"0")  # the store keeps keys: leave nothing large behind
        numbers = np.frombuffer(content, dtype=tensor.numpy().dtype).reshape(tensor.shape)
        with paddle.no_grad():
            paddle.assign(paddle.to_tensor(numbers), tensor)
        return Done()

    def _key(self, group: Any, sender: int, receiver: int) -> str:
        pair = self._number_of(group), sender, receiver
        self._counts[pair] = self._counts.get(pair, 0) + 1
        return f"paddle_sft/message/{'/'.join(map(str, pair))}/{self._counts[pair]}"
