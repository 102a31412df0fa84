"""Compiles cpu.cc once for this machine and loads it; without a compiler, says so once and leaves it."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional

import paddle

from paddle_sft.core.log import get_logger

SOURCE = Path(__file__).parent / "cpu.cc"
SWITCH = "PADDLE_SFT_OPERATORS"
"""Environment variable; 0 leaves the compiled operators out."""

# What the compiler may assume: no traps, no errno, any order of a sum. Not that numbers are finite: NaN must stay NaN.
_FLAGS = (
    "-std=c++17 -O3 -march=native -fopenmp -fPIC -fno-math-errno -fno-trapping-math -fassociative-math "
    "-fno-signed-zeros -freciprocal-math"
).split()
_LIBRARIES = ("libmklml_intel.so", "libiomp5.so")
"""Paddle's own: its matrix product, and its threads (a second OpenMP would fight for the cores)."""
_P, _N, _F, _I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: Dict[str, List[type]] = {
    "rms_norm": [_P] * 4 + [_N] * 2 + [_F],
    "rms_norm_grad": [_P] * 6 + [_N] * 2,
    "rotary": [_P] * 4 + [_N] * 4 + [_I],
    "swiglu": [_P] * 3 + [_N],
    "swiglu_grad": [_P] * 5 + [_N],
    "cross_entropy_in_place": [_P] * 2 + [_N] * 2,
    "attention": [_P] * 6 + [_N] * 5 + [_F],
    "attention_grad": [_P] * 10 + [_N] * 5 + [_F],
}


@lru_cache(maxsize=None)
def load_operators() -> Optional[ctypes.CDLL]:
    """The compiled operators, or None where they are switched off, can't be built, or are not meant for the device."""
    if os.environ.get(SWITCH, "1") == "0" or not paddle.get_device().startswith("cpu"):
        return None
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        get_logger().warning(
            "CPU operators are not compiled, training goes on with Paddle's own and is slower: %s",
            said.strip().splitlines()[0] if said.strip() else type(error).__name__,
        )
        return None
    for name, arguments in _SIGNATURES.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = None
    library.cross_entropy_in_place.restype = ctypes.c_double
    return library


def _built() -> Path:
    """The library's file, built if it isn't there for this source, compiler, processor and paddle.

    Raises:
        OSError: no compiler, or no library to link with.
        subprocess.SubprocessError: it doesn't compile.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise OSError(f"there is no {os.environ.get('CXX', 'g++')}; install g++, or set CXX to a C++ compiler")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddle_sft" / "operators"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"operators-{_key(compiler)}.so"
    with (folder / "operators.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ranks start together; the others find it built
        if not target.is_file():
            _compile(compiler, target)
    return target


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    parts = (SOURCE.read_text(encoding="utf-8"), version, _processor(), paddle.__file__, paddle.__version__, *_FLAGS)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What -march=native compiles for: a cache folder may be shared by machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def _compile(compiler: str, target: Path) -> None:
    libraries = Path(paddle.__file__).parent / "libs"
    made, beside = target.with_suffix(f".{os.getpid()}.o"), target.with_suffix(f".{os.getpid()}")
    try:
        _run([compiler, *_FLAGS, "-c", str(SOURCE), "-o", str(made)])
        linked = [f"-l:{name}" for name in _LIBRARIES]
        # not linked with -fopenmp: that would bring the compiler's own OpenMP
        _run([compiler, "-shared", str(made), f"-L{libraries}", *linked, f"-Wl,-rpath,{libraries}", "-o", str(beside)])
        beside.replace(target)
    finally:
        made.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)


def _run(command: List[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
