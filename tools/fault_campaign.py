"""Kills a tiny training again and again, and looks whether anything was lost.

    python tools/fault_campaign.py --kills 50 --layouts one,dp2,tp2

A run is started, killed at a random moment (kill -9 of one rank, of all, or of all with their launcher; deliberately
inside a save in 4 of 10 cases; now and then SIGTERM instead), and the same command is given again, until it has come to
its end. Then its weights, its last checkpoint with the optimizer's state, and its logged losses are compared with those
of a run that nobody disturbed: bit for bit. As many runs are made as it takes for so many kills.

Ranks are forked from a process that has imported paddle, which makes a kill a matter of 2 seconds; --commands starts
what a user would start, python run_finetune.py and paddle-sft launch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before paddle is imported

from faults.jobs import CommandJob, ForkedJob, in_fork, kill  # noqa: E402

LAYOUTS: Dict[str, Dict[str, Any]] = {
    "one": {"ranks": 1},
    "dp2": {"ranks": 2, "per_device_train_batch_size": 2},
    "tp2": {"ranks": 2, "tensor_parallel_degree": 2, "lora_dropout": 0.0},
    "pp2": {"ranks": 2, "pipeline_parallel_degree": 2, "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2},
    "stage1": {"ranks": 2, "per_device_train_batch_size": 2, "sharding": "stage1"},
    "stage2": {"ranks": 2, "per_device_train_batch_size": 2, "sharding": "stage2"},
}  # fmt: skip
STEPS, SAVE_STEPS = 40, 4
LIMIT = 900.0
"""Seconds a run may take: only a hang takes so long."""
STOPPED = (0, 143, -signal.SIGTERM)
"""How a run ends on SIGTERM: it was at its end anyway; it saved; or it had not begun to train."""


@dataclass
class Tally:
    """What happened at one layout."""

    layout: str
    moments: Counter = field(default_factory=Counter)
    """How often at which moment."""
    victims: Counter = field(default_factory=Counter)
    runs: int = 0
    starts: int = 0
    resumed: int = 0
    """Starts that found a checkpoint."""
    slowest_end: float = 0.0
    """Seconds until all ranks had ended after one of them was killed."""
    problems: List[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.moments.values()) - self.moments["SIGTERM"]


def main(argv: Optional[List[str]] = None) -> int:
    """Run the campaign; returns 0 when nothing was lost."""
    options = _parser().parse_args(argv)
    folder = options.output.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    import paddle_sft.cli.wiring  # noqa: F401  (computes nothing; forks have it)

    in_fork(lambda: make_lab(folder))
    chance = random.Random(options.seed)
    names = options.layouts.split(",")
    begin, tallies = time.time(), []
    for number, name in enumerate(names):
        share = options.kills // len(names) + (number < options.kills % len(names))
        campaign = Campaign(folder, name, CommandJob if options.commands else ForkedJob, chance, options.async_save)
        tallies.append(campaign.run(share))
        print(table([tallies[-1]]), flush=True)
    report = {"seed": options.seed, "commands": options.commands, "seconds": round(time.time() - begin, 1)}
    report["layouts"] = [{**vars(tally), "kills": tally.kills} for tally in tallies]
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = f"{table(tallies)}\nseed {options.seed}, {report['seconds']} s"
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n{folder / 'report.json'}")
    return 1 if any(tally.problems for tally in tallies) else 0


def make_lab(folder: Path) -> Path:
    """A model and data."""
    from tests import tiny

    tiny.make_data(folder / "data", num_train=60)
    return tiny.make_model(folder / "model", intermediate_size=256, hidden_size=64)


class Campaign:
    """The runs of one layout.

    Args:
        job: starts the ranks.
        chance: decides when who is killed.
    """

    def __init__(self, folder: Path, layout: str, job: Any, chance: random.Random, is_async: bool) -> None:
        self._folder = folder
        self._settings = dict(LAYOUTS[layout])
        self._ranks = self._settings.pop("ranks")
        self._settings["use_async_save"] = is_async
        self._job = job
        self._chance = chance
        self._name = layout
        self._duration = 0.0
        self._start_up = 0.0
        self.tally = Tally(layout)

    def run(self, kills: int) -> Tally:
        """Kill so many times; every run is brought to its end and compared."""
        whole = self._file("whole")
        self._undisturbed(whole)
        number = 0
        while self.tally.kills < kills and not self.tally.problems:
            number += 1
            self._one_run(f"run-{number}", kills)
        return self.tally

    def _undisturbed(self, file: Path) -> None:
        """How long the parts of a run take, and what it ends with."""
        begin = time.monotonic()
        job = self._start("whole", file)
        plan = self._output("whole") / "plan.json"
        while job.is_running() and not plan.is_file():
            time.sleep(0.005)
        self._start_up = time.monotonic() - begin
        code = job.wait(LIMIT)
        self._duration = time.monotonic() - begin - self._start_up
        if code:
            raise SystemExit(f"the undisturbed run of {self._name} ended with {code}: {self._log('whole')}")

    def _one_run(self, name: str, kills: int) -> None:
        file, tally = self._file(name), self.tally
        tally.runs += 1
        while True:
            tally.starts += 1
            tally.resumed += any(self._output(name).glob("checkpoint-*"))
            job = self._start(name, file)
            struck = tally.kills < kills and self._strike(job, name)
            at = time.monotonic()
            code = job.wait(LIMIT)
            if struck == "SIGTERM" and code not in STOPPED:
                tally.problems.append(f"{name}: SIGTERM ended with {code}: {self._log(name)}")
            if struck:
                tally.slowest_end = max(tally.slowest_end, round(time.monotonic() - at, 1))
            elif code:
                tally.problems.append(f"{name}: undisturbed, and it ended with {code}: {self._log(name)}")
            if not struck or code == 0 or tally.problems:
                break
        if not tally.problems:
            tally.problems = [f"{name}: {line}" for line in lost(self._output("whole"), self._output(name))]
        if not tally.problems:
            shutil.rmtree(self._output(name))

    def _strike(self, job: Any, name: str) -> str:
        """Wait for a random moment and kill; returns what moment it was, or nothing if the run was over before."""
        moment = self._chance.choices(("start", "step", "save", "SIGTERM"), (2, 4, 4, 1))[0]
        if not self._wait_for(moment, job, self._output(name)):
            return ""
        ranks = job.ranks()
        victims = {f"rank {rank}": [pid] for rank, pid in enumerate(ranks)} if len(ranks) == self._ranks > 1 else {}
        victims["all"] = job.processes()
        who = self._chance.choice(sorted(victims))
        number = signal.SIGTERM if moment == "SIGTERM" else signal.SIGKILL
        if moment == "SIGTERM" and who == "all":
            victims["all"] = ranks  # not what started them: that has manners of its own
        if not kill(victims[who], number):
            return ""
        self.tally.moments[moment] += 1
        self.tally.victims[who] += 1
        return moment

    def _wait_for(self, moment: str, job: Any, output: Path) -> bool:
        """Whether the moment came while the run was on."""
        plan = output / "plan.json"
        before = plan.stat().st_mtime_ns if plan.is_file() else 0
        if moment == "start":
            return self._sleep(self._chance.uniform(0, self._start_up), job)
        while job.is_running() and not (plan.is_file() and plan.stat().st_mtime_ns != before):
            time.sleep(0.005)
        if moment != "save":
            return self._sleep(self._chance.uniform(0, self._duration * 0.9), job)
        skipped = self._chance.randrange(4)  # the saves that it lives through
        for _ in range(skipped):
            if not self._see(output, job) or not self._see(output, job, is_there=False):
                return False
        return self._see(output, job) and self._sleep(self._chance.uniform(0, 0.02), job)

    def _see(self, output: Path, job: Any, is_there: bool = True) -> bool:
        while job.is_running():
            if any(output.glob(".unfinished-*")) == is_there:
                return True
            time.sleep(0.0005)
        return False

    def _sleep(self, seconds: float, job: Any) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until and job.is_running():
            time.sleep(0.0005)
        return job.is_running()

    # ---- files -------------------------------------------------------------------------------------------------

    def _output(self, name: str) -> Path:
        return self._folder / self._name / name

    def _log(self, name: str) -> Path:
        return self._folder / self._name / f"{name}.log"

    def _start(self, name: str, file: Path) -> Any:
        return self._job(file, self._ranks, self._log(name))

    def _file(self, name: str) -> Path:
        content = {
            "model_name_or_path": str(self._folder / "model"), "dataset_name_or_path": str(self._folder / "data"),
            "output_dir": str(self._output(name)), "do_train": True, "device": "cpu", "lora": True, "lora_rank": 8,
            "lora_dropout": 0.1, "max_steps": STEPS, "save_steps": SAVE_STEPS, "save_total_limit": 2,
            "logging_steps": 3, "evaluation_strategy": "steps", "eval_steps": 10, "learning_rate": 0.001,
            "per_device_train_batch_size": 4, "src_length": 32, "max_length": 48, "disable_tqdm": True,
            **self._settings,
        }  # fmt: skip
        file = self._folder / self._name / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        return file


def lost(whole: Path, other: Path) -> List[str]:
    """What two finished runs don't share: the results, and the last checkpoint with the optimizer's state."""
    last = f"checkpoint-{STEPS}"
    found = []
    for place in (Path(), Path(last)):
        names = {path.name for folder in (whole, other) for path in (folder / place).glob("*") if path.is_file()}
        assert len(names) > 3, f"{whole / place} is empty"
        for name in sorted(names - {"manifest.json"}):  # which has the checksums of times
            if not _is_same(whole / place / name, other / place / name):
                found.append(f"{other / place / name} is not that of the undisturbed run")
    return found


def _is_same(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    if one.suffix != ".json":
        return one.read_bytes() == other.read_bytes()
    if one.name in ("plan.json", "arguments.json"):  # they say where the run is, and from where it was resumed
        return True
    return _without_times(json.loads(one.read_text())) == _without_times(json.loads(other.read_text()))


def _without_times(content: Any) -> Any:
    if isinstance(content, list):
        return [_without_times(one) for one in content]
    if not isinstance(content, dict):
        return content
    times = ("seconds", "runtime", "per_second")
    return {key: _without_times(one) for key, one in content.items() if not key.endswith(times)}


def table(tallies: List[Tally]) -> str:
    """For people."""
    titles = ("layout", "kills", "at the start", "in a step", "in a save", "SIGTERM", "runs", "starts", "resumed")
    titles = (*titles, "all ended within", "lost")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for one in tallies:
        moments = " | ".join(str(one.moments[name]) for name in ("start", "step", "save", "SIGTERM"))
        verdict = "; ".join(one.problems) or "nothing"
        lines.append(
            f"| {one.layout} | {one.kills} | {moments} | {one.runs} | {one.starts} | {one.resumed} | "
            f"{one.slowest_end:.1f} s | {verdict} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="kill -9 so often, over all layouts (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="decides when who is killed (default: 0)")
    parser.add_argument("--layouts", default="one,dp2,tp2", help=f"of {', '.join(LAYOUTS)} (default: one,dp2,tp2)")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "faults", help="emptied first")
    parser.add_argument("--commands", action="store_true", help="start real commands: slower by the imports")
    parser.add_argument("--async_save", action="store_true", help="with use_async_save")
    return parser


if __name__ == "__main__":
    sys.exit(main())
