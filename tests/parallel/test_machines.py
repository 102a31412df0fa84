"""Two machines, each a network namespace with an address of its own, train as one process: `make parallel`."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.parallel.layouts import FOUR, SCRIPT, TOLERANCE, TWO, alone, distances, files, make_lab
from tests.parallel.machines import Launcher, two_machines, wait_for, why_not

pytestmark = [
    pytest.mark.skipif(not os.environ.get("PADDLE_SFT_PARALLEL"), reason="make parallel sets PADDLE_SFT_PARALLEL"),
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
]
LAYOUTS = {1: {name: TWO[name] for name in ("dp2", "tp2", "pp2")}, 2: {"tp2-pp2": FOUR["tp2-pp2"]}}
"""Ranks a machine -> what is compared on two machines."""

KILLED = """
import sys
import time
import paddle
import paddle.distributed as dist
from paddle_sft.core.parent import die_with_parent

die_with_parent()
dist.init_parallel_env()
dist.all_reduce(paddle.ones([1]))
print("together", flush=True)
while "waits" not in sys.argv:
    time.sleep(0.01)
    dist.all_reduce(paddle.ones([1]))  # fails when the other rank is gone
while True:  # a rank that waits for the other for ever, as in a pipeline
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def machines():
    with two_machines() as addresses:
        yield addresses


def launch_on(machines, folder, nproc, *words, port=8090):
    """The same command on each, with its own number."""
    master = next(iter(machines.values()))
    options = ["--nnodes", "2", "--master", f"{master}:{port}", "--nproc", str(nproc)]
    return [
        Launcher([*options, "--rank", str(rank), *words], folder, f"{nproc}-{rank}", namespace)
        for rank, namespace in enumerate(machines)
    ]


@pytest.fixture(scope="module")
def lab(machines, tmp_path_factory):
    lab = make_lab(tmp_path_factory.mktemp("machines"))
    alone(lab.job("one", {}, 1, "lora"))
    for nproc, layouts in LAYOUTS.items():
        jobs = [lab.job(name, layout, 2 * nproc, "lora") for name, layout in layouts.items()]
        file = lab.runs / f"jobs-{nproc}.json"
        file.write_text(json.dumps(jobs), encoding="utf-8")
        launchers = launch_on(machines, lab.runs, nproc, str(SCRIPT), str(file))
        try:
            for launcher in launchers:
                assert launcher.wait() == 0, launcher.said[-4000:]
        finally:
            for launcher in launchers:
                launcher.kill()
    return lab


@pytest.mark.parametrize("name", [name for layouts in LAYOUTS.values() for name in layouts])
def test_two_machines_equal_one_process(lab, name):
    found = distances(lab.output("one"), lab.output(name))
    assert max(found.values()) < TOLERANCE, found
    assert files(lab.output("one")) == files(lab.output(name))


@pytest.mark.parametrize("waits", ["", "waits"])
def test_a_killed_rank_ends_the_other_machine_with_its_number_and_code(machines, tmp_path, waits):
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    first, second = launchers = launch_on(machines, tmp_path, 1, str(script), waits, port=8091)
    try:
        logs = [launcher.logs / f"machine-{rank}" / "workerlog.0" for rank, launcher in enumerate(launchers)]
        wait_for(lambda: all(log.is_file() and "together" in log.read_text() for log in logs), launchers)
        os.kill(second.ranks()[0], signal.SIGKILL)
        begin = time.monotonic()
        assert [launcher.wait() for launcher in (second, first)] == [137, 137]
        print(f"both machines ended {time.monotonic() - begin:.1f} s after the kill")
    finally:
        for launcher in launchers:
            launcher.kill()
    assert "launch: rank 1 on machine 1 failed with exit code -9" in first.said
    assert "launch: rank 1 on this machine failed with exit code -9" in second.said
    assert not first.ranks() and not second.ranks()


def test_sigterm_on_one_machine_stops_both(machines, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    first, second = launchers = launch_on(machines, tmp_path, 1, str(script), "waits", port=8092)
    try:
        logs = [launcher.logs / f"machine-{rank}" / "workerlog.0" for rank, launcher in enumerate(launchers)]
        wait_for(lambda: all(log.is_file() and "together" in log.read_text() for log in logs), launchers)
        second.kill(signal.SIGTERM)
        assert [launcher.wait() for launcher in (second, first)] == [143, 143]
    finally:
        for launcher in launchers:
            launcher.kill()
    assert "stopped by SIGTERM" in second.note
    assert "was stopped" in first.note
