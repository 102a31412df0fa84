"""Ranks that are killed, stopped, stuck or out of space, under the real launcher, and a campaign of kills."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_sft.train.checkpoint import last_good
from tests.e2e.commands import ROOT, TIME_LIMIT, checkpoints, finish, start, wait_until
from tests.parallel.layouts import TWO, alone, make_lab

sys.path.insert(0, str(ROOT / "tools"))
from faults.jobs import descendants, ranks_below  # noqa: E402

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="a minute long: make parallel sets PADDLE_SFT_PARALLEL"
)
SCRIPT = ROOT / "run_finetune.py"
STUCK = Path(__file__).with_name("one_stuck_rank.py")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return make_lab(tmp_path_factory.mktemp("faults"))


class Launched:
    """Two ranks under paddle-sft launch."""

    def __init__(self, lab, name, script=SCRIPT, layout="dp2", limit=None, **changes):
        settings = {"max_steps": 5000, "save_steps": 2, "evaluation_strategy": None, "eval_steps": None, **changes}
        job = lab.job(name, TWO[layout], 2, "lora", save_total_limit=2, **settings)
        self.output = lab.output(name)
        content = json.loads(Path(job["file"]).read_text(encoding="utf-8"))
        kept = {key: value for key, value in content.items() if value is not None}
        Path(job["file"]).write_text(json.dumps(kept), encoding="utf-8")
        words = (
            "-m",
            "paddle_sft",
            "launch",
            "--nproc",
            "2",
            "--log_dir",
            lab.runs / f"log-{name}",
            script,
            job["file"],
        )
        options = {"preexec_fn": limit} if limit else {}
        self.job = start(*words, folder=lab.runs, **options)

    def after_a_save(self):
        wait_until(lambda: len(checkpoints(self.output)) > 1, self.job)
        return self

    def rank(self, number):
        """Its process."""
        return ranks_below(self.job.pid)[number]

    def ended(self):
        """What it said; nothing of it may be left, nor half written."""
        left = descendants(self.job.pid)
        outcome = finish(self.job)
        assert [pid for pid in left if Path(f"/proc/{pid}").is_dir()] == []
        assert last_good(self.output) == self.output / f"checkpoint-{checkpoints(self.output)[-1]}"
        return outcome


def test_a_killed_rank_ends_the_others_and_is_named(lab):
    run = Launched(lab, "killed", layout="tp2").after_a_save()
    os.kill(run.rank(1), signal.SIGKILL)
    outcome = run.ended()
    assert outcome.code == 128 + signal.SIGKILL
    assert "rank 1 failed with exit code -9; the end of" in outcome.err


def test_a_stopped_rank_ends_the_others_and_is_named_with_the_end_of_its_log(lab):
    run = Launched(lab, "stopped", hang_timeout=5).after_a_save()
    os.kill(run.rank(1), signal.SIGSTOP)
    outcome = run.ended()
    assert outcome.code == 124
    assert "rank 1 no longer answers" in outcome.err, "\n".join(outcome.err.splitlines()[-40:])
    assert "T (stopped)" in outcome.err
    assert "workerlog.1:" in outcome.err


def test_a_stuck_rank_ends_itself_and_says_where_it_was(lab):
    run = Launched(lab, "stuck", script=STUCK, hang_timeout=5)
    outcome = run.ended()
    assert outcome.code == 124
    assert "rank 1 failed with exit code 124" in outcome.err
    assert "the run stands still: rank 1 makes no progress" in outcome.err
    assert "get_lost_in_thought" in outcome.err
    assert checkpoints(run.output) == [2, 4]


def test_a_disk_that_is_full_for_the_first_rank_ends_all_and_keeps_the_last_checkpoint(lab):
    output = lab.output("full")
    alone(lab.job("full", {}, 1, "lora", max_steps=4, lora_rank=32))
    sizes = {path.name: path.stat().st_size for path in (output / "checkpoint-4").iterdir()}
    room = sizes["optimizer.safetensors"] - 1000
    assert all(size < room for name, size in sizes.items() if name != "optimizer.safetensors"), sizes
    run = Launched(
        lab, "full", limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)), max_steps=8, lora_rank=32
    )
    outcome = run.ended()
    assert outcome.code == 2
    assert "can't save" in outcome.err
    assert f"the last good checkpoint is {output / 'checkpoint-4'}" in outcome.err
    assert checkpoints(output) == [2, 4]


@pytest.mark.parametrize("options", [(), ("--async_save",)], ids=["", "async"])
def test_ten_kills_lose_nothing(tmp_path, options):
    numbers = ("--kills", "5", "--seed", "1", "--output", str(tmp_path / "faults"))
    command = [sys.executable, str(ROOT / "tools" / "fault_campaign.py"), *numbers, *options]
    done = subprocess.run(command, timeout=TIME_LIMIT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "faults" / "report.json").read_text(encoding="utf-8"))
    assert sum(one["kills"] for one in report["layouts"]) >= 5
    assert not any(one["problems"] for one in report["layouts"])
