"""Threads and matrix kernels of a CPU run. Must be settled before paddle is imported: it reads them once."""

from __future__ import annotations

import contextlib
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
    return settled


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
