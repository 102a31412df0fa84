"""What this machine has: versions, devices, settings. Gathering only; what is wrong with it is judged in faults.py."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from paddle_sft.core.errors import PaddleSFTError

Numbers = Tuple[int, ...]
"""A version as numbers, (3, 3, 1), comparable part by part."""

DISTRIBUTIONS = (
    "paddle-sft paddlepaddle paddlepaddle-gpu paddlenlp paddleslim numpy protobuf tokenizers sentencepiece safetensors "
    "datasets pyarrow aistudio-sdk decorator setuptools pyyaml visualdl matplotlib"
).split()
"""The packages whose versions matter to us, in the order they are shown."""

IMPORTS = ("paddle", "paddlenlp", "paddlenlp.transformers", "paddlenlp.trainer", "paddleslim")

_IMPORT_PROGRAM = """
import importlib, json, sys
report = {"failed": "", "lines": "", "compiled_with_cuda": None, "num_gpus": 0}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        import traceback
        report.update(failed=name, lines="".join(traceback.format_exception(type(error), error, None))[-2000:].strip())
        break
if "paddle" in sys.modules and report["failed"] != "paddle":
    import paddle
    report.update(compiled_with_cuda=paddle.is_compiled_with_cuda(), num_gpus=paddle.device.cuda.device_count())
print("\\n" + json.dumps(report))
"""

SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "CUDA_VISIBLE_DEVICES",
    "FLAGS_selected_gpus",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION",
)
"""Environment variables that change how Paddle runs; all are read before or at `import paddle`."""


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says. Without it: no GPU. It can also be there and fail, which is a fault of its own."""

    gpus: Tuple[str, ...] = ()
    cuda: Optional[Numbers] = None
    """The newest CUDA version the driver supports, (12, 4)."""
    error: str = ""


@dataclass(frozen=True)
class Imports:
    """The result of importing paddle and what builds on it, in a process of its own."""

    tried: bool = False
    failed: str = ""
    """The first module that couldn't be imported."""
    lines: str = ""
    """The last lines of its error."""
    compiled_with_cuda: Optional[bool] = None
    num_gpus: int = 0


@dataclass(frozen=True)
class Machine:
    """Everything the faults are judged by; a test builds one by hand."""

    python: Numbers = (3, 11, 0)
    executable: str = "python"
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed distribution -> version; an absent name is not installed."""
    settings: Mapping[str, str] = field(default_factory=dict)
    driver: Driver = Driver()
    imports: Imports = Imports()
    cpu: str = ""
    num_cores: int = 1
    memory_gb: float = 0.0
    disk_free_gb: float = 0.0


def version_numbers(text: str) -> Numbers:
    """'3.0.0b4' -> (3, 0, 0), '2.6.2.post120' -> (2, 6, 2): the first three numbers, suffixes dropped."""
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def installed_versions() -> Dict[str, str]:
    """Versions from the installed metadata, so that it works when nothing can be imported."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def parse_driver_cuda(header: str) -> Optional[Numbers]:
    """The 'CUDA Version: 12.4' of nvidia-smi's header (newer drivers write 'CUDA UMD Version'), None if absent."""
    match = re.search(r"CUDA(?: \w+)? Version:\s*(\d+)\.(\d+)", header)
    return (int(match.group(1)), int(match.group(2))) if match else None


def read_driver() -> Driver:
    """Ask nvidia-smi for GPUs and the CUDA version of the driver."""
    if shutil.which("nvidia-smi") is None:
        return Driver()
    listing = _run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
    if listing.returncode != 0:
        return Driver(error=(listing.stdout + listing.stderr).strip())
    gpus = tuple(line.strip() for line in listing.stdout.splitlines() if line.strip())
    return Driver(gpus=gpus, cuda=parse_driver_cuda(_run(["nvidia-smi"]).stdout))


def try_imports(names: Tuple[str, ...] = IMPORTS, timeout_seconds: int = 180) -> Imports:
    """Import `names` one after the other in a new process (10 s when all is well), and report the first that fails."""
    try:
        done = _run([sys.executable, "-c", _IMPORT_PROGRAM, *names], timeout_seconds)
    except subprocess.TimeoutExpired:
        return Imports(tried=True, failed=names[0], lines=f"importing took longer than {timeout_seconds} s")
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        # The process died inside native code (an instruction the processor does not have, a broken library).
        last = "\n".join(done.stderr.splitlines()[-5:])
        return Imports(tried=True, failed=names[0], lines=f"the process ended with code {done.returncode}\n{last}")
    return Imports(tried=True, **report)


def inspect_machine(with_imports: bool = True) -> Machine:
    """Look at the machine this process runs on."""
    return Machine(
        python=tuple(sys.version_info[:3]),
        executable=sys.executable,
        versions=installed_versions(),
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        driver=read_driver(),
        imports=try_imports() if with_imports else Imports(),
        cpu=_cpu_model(),
        num_cores=_num_usable_cores(),
        memory_gb=_memory_gb(),
        disk_free_gb=shutil.disk_usage(".").free / 1e9,
    )


def _run(command, timeout_seconds: int = 30) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_seconds)
    except OSError as error:
        raise PaddleSFTError(f"can't run {command[0]}: {error}") from error


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    vendor = "AMD " if "AuthenticAMD" in text and match and "AMD" not in match.group(1) else ""
    return vendor + (match.group(1).strip() if match else platform.machine())


def _num_usable_cores() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):  # a system without these names
        return 0.0
