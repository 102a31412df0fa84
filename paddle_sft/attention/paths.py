"""Which of its ways a run computes attention: decided from what is asked, the machine and the model; said at start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

KERNEL = "FlashMask kernel"
COMPILED = "by segments, compiled"
COMPOSED = "by segments, Paddle's operators"

SMALLEST_CAPABILITY = (8, 0)
"""Of a GPU that Paddle's FlashAttention 2 kernels are built for (Ampere)."""
LARGEST_HEAD = 256
"""Numbers of a head that those kernels hold; a multiple of 8."""
HALF = ("float16", "bfloat16")
"""Types that they compute in."""


@dataclass(frozen=True)
class Wish:
    """The keys of an argument file; None: wherever it is possible."""

    use_flash_attention: Optional[bool] = None
    flash_mask: Optional[bool] = None


@dataclass(frozen=True)
class Machine:
    """What computes."""

    on_gpu: bool
    capability: Tuple[int, int] = (0, 0)
    """The GPU's."""
    has_operators: bool = False
    """Whether the operators for the CPU are compiled."""


@dataclass(frozen=True)
class Demand:
    """What has to be computed."""

    dtype: str
    """Of queries, keys and values: float32, bfloat16 or float16."""
    head_size: int
    beyond_kernels: str = ""
    """What of it no kernel computes; empty if they compute it."""
    is_packed: bool = False
    """Whether a row has several segments."""


def against_kernel(wish: Wish, machine: Machine, demand: Demand) -> str:
    """Why Paddle's FlashMask kernel does not run; empty if it does."""
    if not machine.on_gpu:
        return "no GPU"
    if wish.use_flash_attention is False:
        return "use_flash_attention is false"
    if demand.is_packed and wish.flash_mask is False:
        return "flash_mask is false"
    if demand.beyond_kernels:
        return f"the kernel has not {demand.beyond_kernels}"
    if demand.dtype not in HALF:
        return f"the kernel computes in {' and '.join(HALF)}, the run in {demand.dtype}; set bf16 or fp16 to true"
    if demand.head_size > LARGEST_HEAD or demand.head_size % 8:
        return (
            f"the kernel takes heads of at most {LARGEST_HEAD} numbers, a multiple of 8; these have {demand.head_size}"
        )
    if machine.capability < SMALLEST_CAPABILITY:
        found, needed = (".".join(map(str, one)) for one in (machine.capability, SMALLEST_CAPABILITY))
        return f"the kernel needs a GPU of compute capability {needed}, this one has {found}"
    return ""


def choose_path(wish: Wish, machine: Machine, demand: Demand) -> Tuple[str, str]:
    """(KERNEL, COMPILED or COMPOSED, why). Each is exact; none makes a T x T mask."""
    why_not = against_kernel(wish, machine, demand)
    if not why_not:
        return KERNEL, "masked by row ends" if demand.is_packed else "causal"
    if machine.on_gpu:
        return COMPOSED, why_not
    if demand.beyond_kernels:
        return COMPOSED, f"{why_not}; the compiled operator has not {demand.beyond_kernels}"
    return (COMPILED, why_not) if machine.has_operators else (COMPOSED, f"{why_not}, no compiled operators")
