"""Threads and matrix kernels of a CPU run. Must be settled before paddle is imported: it reads them once."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Dict

from paddle_sft.core.log import num_ranks


def settle_threads() -> Dict[str, str]:
    """Set what the user has not set, and return it (for the plan).

    Importing paddle sets OMP_NUM_THREADS to 1 where it is unset, so one process would use one core. Several ranks on
    one machine share the cores. On AMD processors MKL takes its slow path unless it is told otherwise (a 1024 x 2048 x
    2048 float32 product: 42 GFLOP/s against 204).
    """
    wanted = {"OMP_NUM_THREADS": str(max(1, num_cores() // ranks_here()))}
    if _is_amd():
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    settled = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(settled)
    keep_freed_memory()
    return settled


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of glibc's mallopt."""


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what a step frees for the next step, unless the environment says how it should work.

    By default it gives blocks above some size back at once, and the system hands out every page anew, zeroed: 9 % of a
    training step. 32 MiB is the largest block that malloc keeps. Peak memory doesn't change, but by gaps (1 to 2 %).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt(_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(_TRIM_THRESHOLD, 2**30)


def import_quietly(module: str) -> None:
    """Import `module`, keeping back the two lines that paddle prints about every OMP_NUM_THREADS but 1.

    They advise one thread for data parallel training, which `settle_threads` has seen to.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module(module)
    finally:
        kept = [line for line in said.getvalue().splitlines(keepends=True) if "OMP_NUM_THREADS" not in line]
        sys.stderr.write("".join(kept))


def num_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ranks_here() -> int:
    """Ranks that the launcher started on this machine."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", num_ranks()))


def _is_amd() -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and "AuthenticAMD" in info.read_text(encoding="utf-8", errors="replace")
