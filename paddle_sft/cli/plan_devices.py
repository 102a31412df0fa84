"""What --devices says: 8, 8x80GB, 2x8x80GB."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Match

from paddle_sft.core.errors import ArgumentError

NODE = 8
"""Devices of a node, where more are given and nodes are not."""
MOST = 16384
"""Devices for which layouts are searched: seconds of work; more are more likely a slip of the pen."""
_FORM = re.compile(r"(?:(\d+)x)?(\d+)(?:x(\d+(?:\.\d+)?)(GB|GiB))?", re.IGNORECASE)
_BYTES = {"gb": 10**9, "gib": 2**30}


@dataclass(frozen=True)
class Devices:
    """The devices of a plan."""

    nodes: int
    per_node: int
    memory: float
    """Bytes of each; infinite where nothing is said."""
    context: float
    """Bytes that a device needs before the first tensor: its driver's context, kernels, buffers of NCCL."""
    reserve: float
    """Share of the memory that is left for fragmentation and for what the plan does not know."""

    @property
    def number(self) -> int:
        return self.nodes * self.per_node

    @property
    def usable(self) -> float:
        """Bytes for tensors."""
        return self.memory * (1 - self.reserve) - self.context

    def text(self) -> str:
        """Such as 2 nodes of 8 x 80 GB."""
        size = "" if self.memory == float("inf") else f" x {self.memory / 1e9:.4g} GB"
        return f"{self.nodes} node{'s' * (self.nodes > 1)} of {self.per_node}{size}"


def read_devices(text: str, context: float, reserve: float) -> Devices:
    """
    Args:
        context: GB.
        reserve: percent.

    Raises:
        ArgumentError: another form, no device, or no memory left.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or 0 in (int(found[1] or 1), int(found[2])) or _lacks_unit(found):
        raise ArgumentError(
            f"--devices {text!r}: write COUNT, COUNTxMEMORY or NODESxCOUNTxMEMORY, the memory in GB or GiB, such as 8, "
            "8x80GB, or 2x8x80GB for two nodes of eight"
        )
    if not 0 <= reserve < 100 or not context >= 0:
        raise ArgumentError(
            f"--reserve {reserve:g} and --context {context:g}: a percentage below 100, and GB of at least 0"
        )
    count = int(found[2])
    if count * int(found[1] or 1) > MOST:
        raise ArgumentError(
            f"--devices {text!r}: {count * int(found[1] or 1):,} devices are more than the {MOST:,} a plan searches; "
            "plan for a part of them, and multiply the data-parallel ranks"
        )
    nodes = int(found[1]) if found[1] else max(1, count // NODE)
    if found[1] is None:
        if count > NODE and count % NODE:
            raise ArgumentError(
                f"--devices {text!r}: {count} devices are no whole nodes of {NODE}; write the nodes, such as "
                f"{_nodes_of(count)}x{text.strip()[len(found[2]) + 1 :] or '80GB'}"
            )
        count //= nodes
    memory = float(found[3]) * _BYTES[found[4].lower()] if found[3] else float("inf")
    devices = Devices(nodes, count, memory, context * 1e9, reserve / 100)
    if devices.usable <= 0:
        raise ArgumentError(
            f"--devices {text!r}: nothing is left of {memory / 1e9:g} GB without --context {context:g} GB and "
            f"--reserve {reserve:g} %"
        )
    return devices


def _lacks_unit(found: Match[str]) -> bool:
    """8x80 is more likely a memory without its unit than nodes of 80 devices."""
    return found[1] is not None and found[3] is None and int(found[2]) > 2 * NODE


def _nodes_of(count: int) -> str:
    """The fewest nodes of at most eight."""
    per_node = max(number for number in range(1, NODE + 1) if count % number == 0)
    return f"{count // per_node}x{per_node}"
