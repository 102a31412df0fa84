"""Known faults of an installation: how each is seen, why it hurts, and the exact command that mends it.

Pure: a Machine goes in, problems come out. The bounds are those of setup.py (a test compares them); they are repeated
here because a later `pip install` of something else can break what setup.py got right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Optional, Tuple

from paddle_sft.cli.machine import Machine, Numbers, version_numbers

PADDLE_VERSION = "3.3.1"
"""The release the suite is developed and tested with."""

GPU_WHEELS: Tuple[Tuple[Numbers, str, str], ...] = (
    ((13, 0), PADDLE_VERSION, "cu130"),
    ((12, 9), PADDLE_VERSION, "cu129"),
    ((12, 0), PADDLE_VERSION, "cu126"),
    ((11, 8), "3.2.0", "cu118"),
)
"""Smallest CUDA version of the driver -> paddlepaddle-gpu release and its folder, newest first.

From PaddlePaddle's installation page for Linux, https://www.paddlepaddle.org.cn/documentation/docs/en/install/pip/
(3.3: CUDA 12.6, 12.9 and 13.0; CUDA 11.8 was last offered with 3.2). A cu126 wheel runs on any driver of CUDA 12:
NVIDIA keeps binaries compatible within a major version.
"""

GPU_WHEEL_INDEX = "https://www.paddlepaddle.org.cn/packages/stable"
"""PaddlePaddle's own: the default package index has GPU wheels up to 2.6.2 only."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one machine, in words, and what mends it."""

    name: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Fault:
    """One way an installation can be wrong. `found` sees it; `remedy` writes the command for that machine."""

    name: str
    found: Callable[[Machine], bool]
    reason: str
    remedy: Callable[[Machine], str]


def pip_install(requirement: str) -> Callable[[Machine], str]:
    """A remedy: install `requirement` into the Python that was looked at."""
    return lambda machine: f"{machine.executable} -m pip install '{requirement}'"


def not_below(distribution: str, bound: str, reason: str) -> Fault:
    """The fault of having `distribution` at version `bound` or later."""
    return Fault(
        f"{distribution} must be below {bound}",
        lambda machine: _at_least(machine, distribution, bound),
        reason,
        pip_install(f"{distribution}<{bound}"),
    )


def missing(distribution: str, requirement: str, reason: str) -> Fault:
    """The fault of not having `distribution` at all."""
    return Fault(
        f"{distribution} is not installed",
        lambda machine: distribution not in machine.versions,
        reason,
        pip_install(requirement),
    )


def gpu_install_command(machine: Machine) -> str:
    """The command of PaddlePaddle's own instructions for this machine's driver."""
    for smallest, release, folder in GPU_WHEELS:
        if machine.driver.cuda is not None and machine.driver.cuda >= smallest:
            return f"{machine.executable} -m pip install paddlepaddle-gpu=={release} -i {GPU_WHEEL_INDEX}/{folder}/"
    oldest = ".".join(str(number) for number in GPU_WHEELS[-1][0])
    return f"install an NVIDIA driver for CUDA {oldest} or later, then run paddle-sft doctor again"


def paddle_install_command(machine: Machine) -> str:
    """The GPU wheel where there is a GPU, else the CPU wheel."""
    if machine.driver.gpus:
        return gpu_install_command(machine)
    return f"{machine.executable} -m pip install paddlepaddle=={PADDLE_VERSION}"


def _at_least(machine: Machine, distribution: str, bound: str) -> bool:
    version = machine.versions.get(distribution)
    return version is not None and version_numbers(version) >= version_numbers(bound)


def _below(machine: Machine, distribution: str, bound: str) -> bool:
    version = machine.versions.get(distribution)
    return version is not None and version_numbers(version) < version_numbers(bound)


def _has_cpu_build_only(machine: Machine) -> bool:
    return "paddlepaddle" in machine.versions and "paddlepaddle-gpu" not in machine.versions


def _has_both_builds(machine: Machine) -> bool:
    return "paddlepaddle" in machine.versions and "paddlepaddle-gpu" in machine.versions


def _replace_by_one_build(machine: Machine) -> str:
    return (
        f"{machine.executable} -m pip uninstall -y paddlepaddle paddlepaddle-gpu && {paddle_install_command(machine)}"
    )


KNOWN_FAULTS: Tuple[Fault, ...] = (
    Fault(
        "Python version",
        lambda machine: not (3, 9) <= machine.python[:2] <= (3, 12),
        "paddlenlp 3.0.0b4 and its dependencies have wheels for Python 3.9 to 3.12",
        lambda machine: "make a virtual environment with Python 3.9 to 3.12: python3.11 -m venv .venv",
    ),
    Fault(
        "paddle is not installed",
        lambda machine: not {"paddlepaddle", "paddlepaddle-gpu"} & set(machine.versions),
        "paddle_sft leaves the choice of CPU or GPU build to you",
        paddle_install_command,
    ),
    Fault(
        "paddlepaddle and paddlepaddle-gpu are both installed",
        _has_both_builds,
        "they write the same files, so what is imported is a mixture of the two",
        _replace_by_one_build,
    ),
    Fault(
        "a GPU, but the CPU build of paddle",
        lambda machine: bool(machine.driver.gpus) and _has_cpu_build_only(machine),
        "training would run on the CPU",
        lambda machine: f"{machine.executable} -m pip uninstall -y paddlepaddle && {gpu_install_command(machine)}",
    ),
    Fault(
        "paddlepaddle-gpu older than 3.0",
        lambda machine: _below(machine, "paddlepaddle-gpu", "3.0"),
        "the default package index ends at 2.6.2 (CUDA 11.8, no code for Hopper); paddlenlp 3.0.0b4 needs 3.x",
        gpu_install_command,
    ),
    Fault(
        "paddlepaddle older than 3.0",
        lambda machine: _below(machine, "paddlepaddle", "3.0"),
        "paddlenlp 3.0.0b4 needs 3.x",
        lambda machine: f"{machine.executable} -m pip install paddlepaddle=={PADDLE_VERSION}",
    ),
    Fault(
        "the NVIDIA driver does not answer",
        lambda machine: bool(machine.driver.error),
        "nvidia-smi is there and fails, so no GPU can be used",
        lambda machine: "run nvidia-smi, and reinstall or restart the driver until it lists the GPUs",
    ),
    Fault(
        "CUDA_VISIBLE_DEVICES is set for a CPU build",
        lambda machine: "CUDA_VISIBLE_DEVICES" in machine.settings and _has_cpu_build_only(machine),
        "Paddle's launcher takes it for a GPU machine, even when it is empty, and dies with IndexError",
        lambda machine: "unset CUDA_VISIBLE_DEVICES",
    ),
    missing("paddlenlp", "paddlenlp==3.0.0b4", "models, tokenizers and the trainer come from it"),
    missing("paddleslim", "paddleslim>=2.6,<2.7", "quantisation comes from it"),
    missing("sentencepiece", "sentencepiece>=0.1.99", "paddlenlp imports it, and the quickstart trains with it"),
    missing("tokenizers", "tokenizers>=0.21,<0.22", "every tokenizer is made with it"),
    missing("pyyaml", "pyyaml>=5.4", "argument files may be YAML"),
    missing("decorator", "decorator", "paddleslim 2.6 imports it without declaring it"),
    missing("setuptools", "setuptools<81", "import paddle needs it, and paddleslim 2.6 its pkg_resources"),
    Fault(
        "paddlenlp is not 3.0.0b4",
        lambda machine: machine.versions.get("paddlenlp", "3.0.0b4") != "3.0.0b4",
        "the suite leans on the trainer and the checkpoint layout of this release",
        pip_install("paddlenlp==3.0.0b4"),
    ),
    not_below("aistudio-sdk", "0.3", "import paddlenlp fails: cannot import name 'download' from 'aistudio_sdk.hub'"),
    not_below("protobuf", "6", "VisualDL's writer and fleet's DistributedStrategy fail with misleading errors"),
    not_below("numpy", "2", "paddlenlp 3.0.0b4 needs numpy<=1.26.4"),
    not_below("pyarrow", "21", "newer ones need NumPy 2, which paddlenlp 3.0.0b4 does not know"),
    not_below("datasets", "4", "it asks for a pyarrow that needs NumPy 2"),
    not_below("setuptools", "81", "paddleslim 2.6 imports pkg_resources, which 84.2 no longer has"),
    not_below("tokenizers", "0.22", "paddlenlp 3.0.0b4 needs tokenizers>=0.21,<0.22"),
)


def find_problems(machine: Machine) -> List[Problem]:
    """Every known fault this machine has, in the order to mend them, and a failed import that none of them explains."""
    problems = [
        Problem(fault.name, fault.reason, fault.remedy(machine)) for fault in KNOWN_FAULTS if fault.found(machine)
    ]
    failure = _import_failure(machine, problems)
    return problems + ([failure] if failure else [])


def find_advice(machine: Machine) -> List[Problem]:
    """What works but could run faster. What is not set is set by every command that computes (core.threads)."""
    if machine.driver.gpus or machine.num_cores == 1 or machine.settings.get("OMP_NUM_THREADS") != "1":
        return []
    reason = f"OMP_NUM_THREADS=1 keeps a run on one of {machine.num_cores} cores; unset, a run takes them all"
    return [Problem("one thread", reason, "unset OMP_NUM_THREADS")]


def _import_failure(machine: Machine, known: List[Problem]) -> Optional[Problem]:
    if not machine.imports.failed:
        return None
    if known:
        remedy = "mend what is listed above, then run paddle-sft doctor again"
    elif machine.imports.failed == "paddle":
        remedy = _replace_by_one_build(machine)
    else:
        distribution = machine.imports.failed.split(".")[0]
        requirement = f"{distribution}=={machine.versions.get(distribution, '')}".rstrip("=")
        remedy = f"{machine.executable} -m pip install --force-reinstall --no-deps '{requirement}'"
    return Problem(f"import {machine.imports.failed} fails", machine.imports.lines, remedy)
