"""paddle-sft launch: a thin front to paddle.distributed.launch.

It adds what Paddle's launcher lacks: device ranges (0-7), CPU ranks on a machine without a GPU, a command name in
place of a script, and the exit code and last lines of the rank that failed first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import paddle_sft
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError

LAUNCHABLE: Dict[str, str] = {"train": "fine-tuning and pre-training"}
"""paddle-sft commands that may stand in the place of SCRIPT: those that know what to do with several ranks."""

PASSED_ON = ("nnodes", "master", "rank", "job_id")
"""Options that go to Paddle's launcher as they are."""

TAIL_LINES = 20


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    script: str
    script_arguments: Tuple[str, ...] = ()
    gpus: Optional[str] = None
    nproc: Optional[int] = None
    log_dir: str = "log"
    passed_on: Tuple[Tuple[str, str], ...] = ()


class Plan(NamedTuple):
    """What will be run: the command, its environment, and what to tell the user about both."""

    command: List[str]
    environment: Dict[str, str]
    notes: List[str]


class FailedRank(NamedTuple):
    """The rank that Paddle's launcher saw fail first."""

    rank: int
    exit_code: int
    log: str


def main(argv: Optional[List[str]] = None) -> int:
    """Start the ranks, wait, and return 0, or the exit code of the rank that failed first."""
    request = replace_command_by_file(parse_request(sys.argv[1:] if argv is None else argv))
    environment = dict(os.environ)  # before paddle is imported, which writes OMP_NUM_THREADS into os.environ
    plan = make_plan(request, visible_gpus(), environment)
    for note in plan.notes:
        print(f"launch: {note}", file=sys.stderr, flush=True)
    return_code, failed = run_job(plan)
    if return_code == 0:
        return 0
    if failed is None:
        return positive_exit_code(return_code)
    print(failure_report(failed), file=sys.stderr)
    return positive_exit_code(failed.exit_code)


def parse_request(argv: Sequence[str]) -> Request:
    """Everything before SCRIPT is ours; SCRIPT and everything behind it is left alone."""
    options = _parser().parse_args(argv)
    if options.nproc is not None and options.nproc < 1:
        raise ArgumentError(f"--nproc must be at least 1, got {options.nproc}")
    passed_on = tuple((name, getattr(options, name)) for name in PASSED_ON if getattr(options, name) is not None)
    return Request(
        script=options.script,
        script_arguments=tuple(options.script_arguments),
        gpus=options.gpus,
        nproc=options.nproc,
        log_dir=options.log_dir,
        passed_on=passed_on,
    )


def replace_command_by_file(request: Request) -> Request:
    """Let SCRIPT be a command: Paddle's launcher starts files only, so `train` becomes our __main__.py with `train`."""
    if request.script.endswith(".py"):
        if not Path(request.script).is_file():
            raise ArgumentError(f"there is no script {request.script}; the working directory is {Path.cwd()}")
        return request
    choose("script", request.script, {**LAUNCHABLE, "a file ending in .py": ""})
    file = str(Path(paddle_sft.__file__).with_name("__main__.py"))
    return replace(request, script=file, script_arguments=(request.script, *request.script_arguments))


def expand_gpus(text: str) -> List[str]:
    """'0,1,4-6' -> ['0', '1', '4', '5', '6'], in the order written.

    Raises:
        ArgumentError: not numbers and ranges, a range that runs backwards, or a GPU named twice.
    """
    gpus: List[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise ArgumentError(f"--gpus {text!r}: {part!r} is neither a number nor a range; write 0-7 or 0,1,4-6")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first:
            raise ArgumentError(f"--gpus {text!r}: the range {part.strip()!r} runs backwards; write {last}-{first}")
        gpus += [str(gpu) for gpu in range(first, last + 1)]
    twice = sorted({gpu for gpu in gpus if gpus.count(gpu) > 1}, key=int)
    if twice:
        raise ArgumentError(f"--gpus {text!r} names GPU {', '.join(twice)} more than once; each rank needs its own GPU")
    return gpus


def visible_gpus() -> List[str]:
    """The names --gpus may use: those in CUDA_VISIBLE_DEVICES if that is set, else 0, 1, ...; [] for a CPU build."""
    import paddle  # 1.2 s, so not before the arguments are known to be good

    count = paddle.device.cuda.device_count()
    restricted = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    if count and restricted not in ("", "all"):
        return [name.strip() for name in restricted.split(",")]
    return [str(index) for index in range(count)]


def make_plan(request: Request, gpus: Sequence[str], environment: Mapping[str, str]) -> Plan:
    """Turn a request into the launcher's command line and environment. `gpus`: the names of this machine's GPUs."""
    if gpus:
        device_options, changed, notes = _gpu_options(request, gpus), dict(environment), []
    else:
        device_options, changed, notes = _cpu_options(request, environment)
    command = [sys.executable, "-u", "-m", "paddle.distributed.launch", *device_options, "--log_dir", request.log_dir]
    for name, value in request.passed_on:
        command += [f"--{name}", value]
    return Plan([*command, request.script, *request.script_arguments], changed, notes)


def _gpu_options(request: Request, gpus: Sequence[str]) -> List[str]:
    if request.gpus is None:
        return [] if request.nproc is None else ["--nproc_per_node", str(request.nproc)]
    wanted = expand_gpus(request.gpus)
    absent = [gpu for gpu in wanted if gpu not in gpus]
    if absent:
        raise ArgumentError(
            f"--gpus {request.gpus} asks for GPU {', '.join(absent)}, and this machine shows {', '.join(gpus)}"
        )
    if request.nproc not in (None, len(wanted)):
        raise ArgumentError(
            f"--gpus {request.gpus} means {len(wanted)} rank(s), one a GPU, and --nproc says {request.nproc}; give one"
        )
    return ["--gpus", ",".join(wanted)]


def _cpu_options(request: Request, environment: Mapping[str, str]) -> Tuple[List[str], Dict[str, str], List[str]]:
    """Options, environment and notes for ranks on the CPU, which talk through gloo."""
    if request.gpus is not None:
        raise ArgumentError(
            f"--gpus {request.gpus} was given, and paddle sees no GPU here; use --nproc N to start N ranks on the CPU "
            "(if there is a GPU, paddle-sft doctor says why paddle does not see it)"
        )
    nproc = request.nproc or 1
    changed = dict(environment)
    notes = [f"no GPU: {nproc} rank(s) on the CPU" + ("" if request.nproc else "; --nproc N starts N")]
    if changed.pop("CUDA_VISIBLE_DEVICES", None) is not None:
        notes.append("CUDA_VISIBLE_DEVICES is unset for the ranks: Paddle's launcher takes it for a GPU machine")
    if nproc > 1 and "OMP_NUM_THREADS" not in changed:
        changed["OMP_NUM_THREADS"] = "1"
        notes.append("OMP_NUM_THREADS=1, so that the ranks don't fight for cores; set it yourself to change that")
    return ["--nproc_per_node", str(nproc)], changed, notes


def run_job(plan: Plan) -> Tuple[int, Optional[FailedRank]]:
    """Run the launcher; pass its output through, and pick out of it which rank failed first."""
    failed = None
    with subprocess.Popen(plan.command, env=plan.environment, stderr=subprocess.PIPE) as job:
        try:
            for line in job.stderr:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
                failed = failed or parse_failed_rank(line.decode(errors="replace"))
        except KeyboardInterrupt:
            job.wait()  # the terminal sent it to the launcher too, which stops the ranks
            raise
    return job.returncode, failed


def parse_failed_rank(line: str) -> Optional[FailedRank]:
    """Read the launcher's line 'Container rank 1 status failed cmd [...] code 7 log log/workerlog.1'."""
    match = re.match(r"Container rank (\d+) status failed cmd .* code (-?\d+) log (\S.*?)\s*$", line)
    return FailedRank(int(match.group(1)), int(match.group(2)), match.group(3)) if match else None


def failure_report(failed: FailedRank) -> str:
    """Which rank failed, how, and the last lines it wrote."""
    try:
        lines = Path(failed.log).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as error:
        lines = [f"(can't read the log: {error})"]
    head = f"launch: rank {failed.rank} failed with exit code {failed.exit_code}; the end of {failed.log}:"
    return "\n".join([head, *(f"  {line}" for line in lines)])


def positive_exit_code(code: int) -> int:
    """A process killed by signal n has code -n, which a shell shows as 128 + n."""
    return 128 - code if code < 0 else code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paddle-sft launch",
        description="Start several ranks of a script, or of `train`, through paddle.distributed.launch.",
        usage="paddle-sft launch [--gpus 0-7] [--nproc N] [options] SCRIPT.py|train [ARGUMENTS ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--gpus", "--devices", help="GPUs, one rank each: 0-7 or 0,1,4-6; default: all")
    parser.add_argument("--nproc", "--nproc_per_node", type=int, help="ranks on this machine; default on a CPU: 1")
    parser.add_argument("--log_dir", default="log", help="folder of the ranks' logs, workerlog.0, ...; default: log")
    parser.add_argument("--nnodes", help="number of machines")
    parser.add_argument("--master", help="ip:port of the first machine")
    parser.add_argument("--rank", help="number of this machine, from 0")
    parser.add_argument("--job_id", help="name of the job")
    parser.add_argument("script", metavar="SCRIPT.py|train")
    parser.add_argument("script_arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    return parser
