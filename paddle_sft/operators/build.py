"""Compiles the C++ sources once for this machine and loads them; without a compiler, says so once and leaves it."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import paddle

from paddle_sft.core.log import get_logger

SOURCES = tuple(Path(__file__).parent / name for name in ("cpu.cc", "dequantise.cc", "linear.cc", "product.cc"))
HEADERS = (Path(__file__).parent / "product.h",)
SWITCH = "PADDLE_SFT_OPERATORS"
"""Environment variable; 0 leaves the compiled operators out."""

# What the compiler may assume: no traps, no errno, any order of a sum. Not that numbers are finite: NaN must stay NaN.
_FLAGS = (
    "-std=c++17 -O3 -march=native -fopenmp -fPIC -fno-math-errno -fno-trapping-math -fassociative-math "
    "-fno-signed-zeros -freciprocal-math"
).split()
_WIDE = "-mprefer-vector-width=512"
"""For processors with AMX, as older ones lower their clock where vectors are that wide; tiles gain nothing by it."""
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
    "attention": [_P] * 6 + [_N] * 5 + [_F] + [_P] * 2,
    "attention_grad": [_P] * 10 + [_N] * 5 + [_F] + [_P] * 2,
    "linears": [_P] + [_N] * 2 + [_P, _N],
    "linears_grad": [_P] + [_N] * 2 + [_P, _N, _P],
    "product": [_P] * 3 + [_N] * 3 + [_I] * 2 + [_F, _I],
    "products_use_tiles": [],
    "dequantise4": [_P] * 4 + [_N] * 2,
    "dequantise8": [_P] * 3 + [_N] * 2,
}


_stand_in: List[Any] = []


def describe_operators() -> str:
    """For the start-up plan: who computes on a CPU."""
    operators = load_operators()
    if operators is None:
        return "Paddle's own"
    return "compiled, float32 products on AMX" if operators.products_use_tiles() else "compiled"


def load_operators() -> Any:
    """The compiled operators, or None where they are switched off, can't be built, or are not meant for the device."""
    return _stand_in[-1] if _stand_in else _library()


@contextmanager
def replaced_operators(stand_in: Any) -> Iterator[None]:
    """Let `load_operators` return something else that has the library's functions."""
    _stand_in.append(stand_in)
    try:
        yield
    finally:
        _stand_in.remove(stand_in)


@lru_cache(maxsize=None)
def _library() -> Optional[ctypes.CDLL]:
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
    library.products_use_tiles.restype = _I
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
    sources = (source.read_text(encoding="utf-8") for source in SOURCES + HEADERS)
    parts = (*sources, version, _processor(), paddle.__file__, paddle.__version__, *_FLAGS, _WIDE)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _flags(source: Path) -> List[str]:
    return [*_FLAGS, _WIDE] if source.stem in ("cpu", "linear") and "amx_bf16" in _processor() else _FLAGS


def _processor() -> str:
    """What -march=native compiles for: a cache folder may be shared by machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def _compile(compiler: str, target: Path) -> None:
    libraries = Path(paddle.__file__).parent / "libs"
    made = [target.with_suffix(f".{os.getpid()}.{source.stem}.o") for source in SOURCES]
    beside = target.with_suffix(f".{os.getpid()}")
    try:
        for source, object_file in zip(SOURCES, made):
            _run([compiler, *_flags(source), "-c", str(source), "-o", str(object_file)])
        linked = [f"-l:{name}" for name in _LIBRARIES]
        # not linked with -fopenmp: that would bring the compiler's own OpenMP
        parts = [str(object_file) for object_file in made]
        _run([compiler, "-shared", *parts, f"-L{libraries}", *linked, f"-Wl,-rpath,{libraries}", "-o", str(beside)])
        beside.replace(target)
    finally:
        for object_file in made:
            object_file.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)


def _run(command: List[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
