"""paddle-sft doctor: what is installed, what it runs on, what is wrong, and the command that mends it.

With --model: what would become of a model folder, and what would be refused.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import List, Optional

from paddle_sft.cli.faults import Problem, find_advice, find_problems
from paddle_sft.cli.machine import DISTRIBUTIONS, Machine, inspect_machine


def main(argv: Optional[List[str]] = None) -> int:
    """Print the report; 0 when all is well, 1 when something is wrong."""
    options = _parser().parse_args(argv)
    if options.model is not None:
        return _look_at_model(options.model, options.read_weights, options.json)
    machine = inspect_machine(with_imports=not options.skip_imports)
    problems, advice = find_problems(machine), find_advice(machine)
    if options.json:
        report = {
            "machine": asdict(machine),
            "problems": [asdict(problem) for problem in problems],
            "advice": [asdict(problem) for problem in advice],
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(report_lines(machine, problems, advice)))
    return 1 if problems else 0


def _look_at_model(name: str, with_weights: bool, with_json: bool) -> int:
    from paddle_sft.cli.doctor_model import add_reading, as_json, look, report_lines

    machine, found = inspect_machine(with_imports=False), look(name)
    if with_weights and not found.problems:
        add_reading(found)
    if with_json:
        print(json.dumps(as_json(found, machine), indent=2, ensure_ascii=False))
    else:
        print("\n".join(report_lines(found, machine)))
    return 1 if found.problems else 0


def report_lines(machine: Machine, problems: List[Problem], advice: List[Problem]) -> List[str]:
    """The report as a person reads it."""
    lines = ["Versions", f"  {'python':<18}{'.'.join(map(str, machine.python))}  ({machine.executable})"]
    lines += [f"  {name:<18}{machine.versions[name]}" for name in DISTRIBUTIONS if name in machine.versions]
    lines += ["", "Machine", *(f"  {line}" for line in _machine_lines(machine))]
    lines += ["", "Settings"]
    settings = [f"  {name}={value}" for name, value in machine.settings.items()]
    lines += settings or ["  none of those Paddle reads is set"]
    if advice:
        lines += ["", "Could be faster", *_numbered(advice)]
    lines += [""]
    if not problems:
        return lines + ["All is well." if machine.imports.tried else "No known fault (imports were not tried)."]
    return lines + [f"{len(problems)} thing(s) to mend, in this order", *_numbered(problems)]


def _machine_lines(machine: Machine) -> List[str]:
    cuda = ".".join(map(str, machine.driver.cuda)) if machine.driver.cuda else "unknown"
    lines = [f"GPU {index}: {gpu} (driver for CUDA {cuda})" for index, gpu in enumerate(machine.driver.gpus)]
    lines = lines or ["no GPU: training runs on the CPU in float32"]
    if machine.imports.tried and machine.imports.compiled_with_cuda is not None:
        build = "CUDA" if machine.imports.compiled_with_cuda else "CPU"
        lines.append(f"paddle is a {build} build and sees {machine.imports.num_gpus} GPU(s)")
    threads = machine.settings.get("OMP_NUM_THREADS", "OMP_NUM_THREADS is not set, so a run takes one a core")
    lines.append(f"CPU: {machine.cpu}, {machine.num_cores} core(s), threads: {threads}")
    lines.append(f"memory: {machine.memory_gb:.1f} GB, free disk here: {machine.disk_free_gb:.1f} GB")
    return lines


def _numbered(problems: List[Problem]) -> List[str]:
    lines = []
    for number, problem in enumerate(problems, 1):
        reason = problem.reason.replace("\n", "\n     ")
        lines += [f"  {number}. {problem.name}", f"     {reason}", f"     -> {problem.remedy}"]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paddle-sft doctor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--model", metavar="DIR", help="look at a model folder (or a name in a hub's cache) instead: headers only, 1 s"
    )
    parser.add_argument(
        "--read-weights", action="store_true", help="with --model: also read every weight, as loading would"
    )
    parser.add_argument("--skip-imports", action="store_true", help="look at versions only (0.1 s instead of about 10)")
    return parser
