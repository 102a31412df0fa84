"""Where the time of a training step goes: a table of operators over a few steps, each beside its limit."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import paddle
from paddle.profiler import Profiler, ProfilerTarget
from paddlenlp.trainer import TrainerCallback

from paddle_sft.core.atomic import write_json
from paddle_sft.core.log import rank
from paddle_sft.operators.build import load_operators, replaced_operators
from paddle_sft.operators.limits import bytes_per_second, operations_per_second
from paddle_sft.operators.timing import OPERATIONS, PREFIX, TimedOperators

BETWEEN = "between operators (Python)"
_OPERATORS = ("TracerEventType.Operator", "TracerEventType.PythonUserDefined")
_PY_LAYER, _NODE, _GRADIENT = "Global_GradNodePyLayer_", "Global_", "GradNode"


@dataclass
class Line:
    """One operator in all profiled steps. Time spent in operators that it calls is theirs."""

    name: str
    calls: int = 0
    milliseconds: float = 0.0
    share: float = 0.0
    """Of the time of the steps."""
    rate: Optional[float] = None
    """10^9 operations or bytes a second; None where the work is not counted."""
    unit: str = ""
    of_limit: Optional[float] = None
    """That rate over what this machine reaches at best: for operations in a product of 1,024 x 1,024 x 1,024, for bytes
    in a copy of 4 MiB."""


class StepProfile(TrainerCallback):
    """Profiles some steps of a run and writes profile.json and profile.txt into a folder.

    The first step is left out if there are enough: it takes memory that later ones have.

    Args:
        num_steps: steps to profile.
        report: gets the table's text when training is over.
    """

    def __init__(self, folder: Path, num_steps: int, report: Any = print) -> None:
        self._folder = folder
        self._num_steps = num_steps
        self._report = report
        self._text = ""
        self._left_out = 0
        self._profiler: Optional[Profiler] = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._left_out = int(state.max_steps - state.global_step > self._num_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._left_out:
            self._left_out -= 1
        elif self._profiler is None and self._num_steps and rank() == 0:
            self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profiler is not None:
            self._done += 1
            if self._done == self._num_steps:
                self._finish()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._profiler is not None:
            self._finish()
        if self._text:
            self._report(self._text)

    def _start(self) -> None:
        self._done, self._stack, self._timed = 0, ExitStack(), None
        if load_operators() is not None:
            self._timed = TimedOperators(load_operators())
            self._stack.enter_context(replaced_operators(self._timed))
        targets = [ProfilerTarget.CPU] + ([ProfilerTarget.GPU] if paddle.get_device().startswith("gpu") else [])
        self._profiler = Profiler(targets=targets, on_trace_ready=lambda profiler: None)
        self._profiler.start()
        self._began = time.perf_counter()

    def _finish(self) -> None:
        seconds = time.perf_counter() - self._began
        self._profiler.stop()
        self._stack.close()
        result = self._profiler.profiler_result  # it owns the events: they are gone with it
        self._profiler, steps, self._num_steps = None, self._done, 0
        work = {} if self._timed is None else self._timed.work
        lines = operator_lines(result.get_data().values(), seconds, work)
        limits = _limits() if work else {}
        for line in lines:
            if line.rate is not None:
                line.of_limit = line.rate / limits[line.unit]
        content = {"steps": steps, "seconds_per_step": seconds / steps, "limits": limits}
        write_json(self._folder / "profile.json", {**content, "operators": [asdict(line) for line in lines]})
        self._text = as_text(lines, steps, seconds, limits)
        (self._folder / "profile.txt").write_text(self._text + "\n", encoding="utf-8")


def operator_lines(trees: Any, seconds: float, work: Dict[str, float]) -> List[Line]:
    """Add up the events of the profiler's threads; the slowest operator first, then what no operator took.

    Args:
        trees: for each thread the root of its events.
        seconds: wall time of the steps.
        work: of each compiled operator, operations or bytes.
    """
    found: Dict[str, Line] = {}
    for root in trees:
        _add_up(root, found)
    rest = 1000 * seconds - sum(line.milliseconds for line in found.values())
    lines = sorted(found.values(), key=lambda line: -line.milliseconds) + [Line(BETWEEN, 0, max(0.0, rest))]
    for line in lines:
        line.share = line.milliseconds / (1000 * seconds)
        name = line.name[len(PREFIX) :] if line.name.startswith(PREFIX) else ""
        if work.get(name) and line.milliseconds:
            line.rate, line.unit = work[name] / line.milliseconds / 1e6, "GFLOP/s" if name in OPERATIONS else "GB/s"
    return lines


def _add_up(event: Any, found: Dict[str, Line]) -> float:
    """Add an event's own time, and that of the events in it; returns milliseconds of the operators in it."""
    inside = sum(_add_up(child, found) for child in event.children_node)
    if str(event.type) not in _OPERATORS:
        return inside
    took = (event.end_ns - event.start_ns) / 1e6
    line = found.setdefault(_name(event.name), Line(_name(event.name)))
    line.calls += 1
    line.milliseconds += max(0.0, took - inside)
    return took


def _name(event: str) -> str:
    """matmul dygraph -> matmul; Global_MatmulGradNode -> Matmul gradient; that of a PyLayer says so."""
    if event.startswith(_PY_LAYER):
        return f"{event[len(_PY_LAYER) :].lstrip('_')} gradient (Python around it)"
    if event.startswith(_NODE) and event.endswith(_GRADIENT):
        return f"{event[len(_NODE) : -len(_GRADIENT)]} gradient"
    return event[: -len(" dygraph")] if event.endswith(" dygraph") else event


def _limits() -> Dict[str, float]:
    return {"GFLOP/s": operations_per_second() / 1e9, "GB/s": bytes_per_second() / 1e9}


def as_text(lines: List[Line], steps: int, seconds: float, limits: Dict[str, float]) -> str:
    """The table as it is printed: operators of at least 0.1 % of the time."""
    shown = [line for line in lines if line.share >= 0.001]
    width = max(len(line.name) for line in shown)
    best = ", ".join(f"{value:.0f} {unit}" for unit, value in limits.items())
    rows = [
        f"profile of {steps} steps, {seconds / steps:.3f} s each"
        + (f"; this machine's limits: {best}" if best else ""),
        f"{'operator':<{width}}{'calls/step':>12}{'ms/step':>10}{'share':>8}{'rate':>15}{'of limit':>10}",
    ]
    for line in shown:
        rate = "" if line.rate is None else f"{line.rate:.0f} {line.unit}"
        limit = "" if line.of_limit is None else f"{line.of_limit:.0%}"
        calls = f"{line.calls / steps:.0f}" if line.calls else ""
        numbers = f"{calls:>12}{line.milliseconds / steps:>10.1f}{line.share:>8.1%}{rate:>15}{limit:>10}"
        rows.append(f"{line.name:<{width}}{numbers}")
    return "\n".join(row.rstrip() for row in rows)
