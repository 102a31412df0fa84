"""paddle-sft launch: a thin front to paddle.distributed.launch.

It adds what Paddle's launcher lacks: device ranges (0-7), CPU ranks on a machine without a GPU, a command name in
place of a script, the exit code and last lines of the rank that failed first, and machines that know of each other.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import sys
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

import paddle_sft
from paddle_sft.cli.launch_job import Plan, run_job
from paddle_sft.cli.launch_meeting import Meeting
from paddle_sft.cli.launch_nodes import (
    Elastic,
    Nodes,
    Unreachable,
    address_of,
    interface_of,
    own_address,
    read_machines,
)
from paddle_sft.cli.launch_paddle import EXIT_NOT_READY
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError

LAUNCHABLE: Dict[str, str] = {"train": "fine-tuning and pre-training"}
"""paddle-sft commands that may stand in the place of SCRIPT: those that know what to do with several ranks."""

OF_MACHINES = ("nnodes", "master", "rank", "job_id", "max_restart", "elastic_timeout")
WAIT = 600.0
"""Seconds to wait for other machines."""

_OPTIONS = "MASTER NNODES RANK NPROC_PER_NODE LOG_DIR JOB_ID ELASTIC_LEVEL ELASTIC_TIMEOUT MAX_RESTART"
OVERRIDES = tuple(f"PADDLE_{name}" for name in _OPTIONS.split())
"""Variables that Paddle's launcher puts in the place of its options."""

COMMAND_FILE = str(Path(paddle_sft.__file__).with_name("__main__.py"))
PROGRAM = "import sys; sys.path.append({root!r}); from paddle_sft.cli.launch_paddle import main; main()"
"""Python's way to a module that need not be installed, with nothing put before the user's own modules."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    script: str
    script_arguments: Tuple[str, ...] = ()
    gpus: Optional[str] = None
    nproc: Optional[int] = None
    log_dir: str = "log"
    job_id: Optional[str] = None
    machines: Union[Nodes, Elastic, None] = None
    wait: float = WAIT


def main(argv: Optional[List[str]] = None) -> int:
    """Start the ranks, wait, and return 0, or the exit code of the rank that failed first."""
    request = replace_command_by_file(parse_request(sys.argv[1:] if argv is None else argv))
    environment = dict(os.environ)  # before paddle is imported, which writes OMP_NUM_THREADS into os.environ
    gpus = visible_gpus()
    plan, meeting = make_plan(request, gpus, environment), None
    try:
        if isinstance(request.machines, Nodes):
            say(other_machines(request))
            meeting = Meeting(request.machines, ranks_here(request, gpus), say)
            meeting.gather(request.wait)
            plan = make_plan(request, gpus, environment, meeting.card.host, meeting.master)
        elif isinstance(request.machines, Elastic):
            plan = make_plan(request, gpus, environment, reach_etcd(request.machines, request.wait))
    except Unreachable as error:
        say(f"error: {error}")
        return EXIT_NOT_READY
    for note in plan.notes:
        say(note)
    return run_job(plan, meeting)


def say(line: str) -> None:
    """Tell the user something that is no output of the ranks."""
    print(f"launch: {line}", file=sys.stderr, flush=True)


def parse_request(argv: Sequence[str]) -> Request:
    """Everything before SCRIPT is ours; SCRIPT and everything behind it is left alone."""
    options = _parser().parse_args(argv)
    if options.nproc is not None and options.nproc < 1:
        raise ArgumentError(f"--nproc must be at least 1, got {options.nproc}")
    if options.wait <= 0:
        raise ArgumentError(f"--wait must be above 0 seconds, got {options.wait:g}")
    return Request(
        script=options.script,
        script_arguments=tuple(options.script_arguments),
        gpus=options.gpus,
        nproc=options.nproc,
        log_dir=options.log_dir,
        job_id=options.job_id,
        machines=read_machines({name: getattr(options, name) for name in OF_MACHINES}),
        wait=options.wait,
    )


def replace_command_by_file(request: Request) -> Request:
    """Let SCRIPT be a command: Paddle's launcher starts files only, so `train` becomes our __main__.py with `train`."""
    if request.script.endswith(".py"):
        if not Path(request.script).is_file():
            raise ArgumentError(f"there is no script {request.script}; the working directory is {Path.cwd()}")
        return request
    choose("script", request.script, {**LAUNCHABLE, "a file ending in .py": ""})
    return replace(request, script=COMMAND_FILE, script_arguments=(request.script, *request.script_arguments))


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


def make_plan(
    request: Request, gpus: Sequence[str], environment: Mapping[str, str], address: str = "", master: str = ""
) -> Plan:
    """Turn a request into the launcher's command line and environment.

    Args:
        gpus: the names of this machine's GPUs.
        address: of this machine, if there are others, and that of the `master`.
    """
    if gpus:
        device_options, changed, notes = _gpu_options(request, gpus), dict(environment), []
    else:
        device_options, changed, notes = _cpu_options(request, environment)
    machines, log_dir = request.machines, request.log_dir
    for name in [name for name in OVERRIDES if name in changed]:
        notes.append(f"{name}={changed.pop(name)} is unset for the ranks: the command line says what counts")
    command = [*start_of_command(address), *device_options]
    if machines is not None:
        log_dir = str(Path(log_dir) / (f"machine-{machines.rank}" if isinstance(machines, Nodes) else address))
        command += machines.options(master) if isinstance(machines, Nodes) else machines.options()
        interface = None if gpus or "GLOO_SOCKET_IFNAME" in changed else interface_of(address)
        if interface is not None:
            changed["GLOO_SOCKET_IFNAME"] = interface
            notes.append(f"ranks talk through {interface} ({address}); GLOO_SOCKET_IFNAME chooses another interface")
    if request.job_id is not None and not isinstance(machines, Elastic):
        command += ["--job_id", request.job_id]
    return Plan([*command, "--log_dir", log_dir, request.script, *request.script_arguments], changed, notes)


def start_of_command(address: str = "") -> List[str]:
    """Paddle's launcher on a machine with this address; "" for one that is alone."""
    root = str(Path(paddle_sft.__file__).parents[1])
    return [sys.executable, "-u", "-c", PROGRAM.format(root=root), address]


def ranks_here(request: Request, gpus: Sequence[str]) -> int:
    """How many ranks this machine gets."""
    if request.gpus is not None:
        return len(expand_gpus(request.gpus))
    return request.nproc or len(gpus) or 1


def other_machines(request: Request) -> str:
    """What has to be run on the other machines."""
    nodes = request.machines
    others = [rank for rank in range(nodes.count) if rank != nodes.rank]
    devices = [] if request.gpus is None else ["--gpus", request.gpus]
    devices += [] if request.nproc is None else ["--nproc", str(request.nproc)]
    script = [request.script, *request.script_arguments]
    if request.script == COMMAND_FILE:
        script = list(request.script_arguments)
    options = [*nodes.options(nodes.host)[:4], "--rank", "RANK"]
    numbers = ", ".join(map(str, others))
    return (
        f"this is machine {nodes.rank} of {nodes.count}; on each of the others, with RANK {numbers}:\n"
        f"  {shlex.join(['paddle-sft', 'launch', *options, *devices, *script])}"
    )


def reach_etcd(elastic: Elastic, wait: float) -> str:
    """This machine's address, once the etcd server answers.

    Raises:
        ArgumentError: the Python client is not installed.
        Unreachable: the server did not answer in time.
    """
    if find_spec("etcd3") is None:
        raise ArgumentError("--master etcd:// needs the package etcd3: python -m pip install -e '.[cpu,elastic]'")
    end = time.monotonic() + wait
    while True:
        try:
            with socket.create_connection((elastic.host, elastic.port), timeout=5):
                return own_address(address_of(elastic.host), elastic.port)
        except OSError as error:
            if time.monotonic() > end:
                raise Unreachable(
                    f"the etcd server {elastic.master} did not answer within {wait:g} s ({error}). Check that it runs "
                    "and listens on that address (--listen-client-urls), and that no firewall closes the port"
                ) from error
        time.sleep(0.5)


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
    parser.add_argument("--nnodes", help="number of machines; MIN:MAX with etcd")
    parser.add_argument("--master", help="HOST:PORT of machine 0, or etcd://HOST:PORT of an etcd server")
    parser.add_argument("--rank", help="number of this machine, from 0; not with etcd")
    parser.add_argument("--wait", type=float, default=WAIT, help=f"seconds for other machines; default: {WAIT:g}")
    parser.add_argument("--job_id", help="name of the job")
    parser.add_argument("--max_restart", help="with etcd: how often to start again; default: 3")
    parser.add_argument("--elastic_timeout", help="with etcd: seconds to wait for more machines; default: 30")
    parser.add_argument("script", metavar="SCRIPT.py|train")
    parser.add_argument("script_arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    return parser
