"""Machines that come and go, over Paddle's etcd mode and a real etcd: `make parallel`."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paddle_sft.cli.launch import main
from tests.e2e.commands import free_port
from tests.parallel.layouts import TOLERANCE, alone, farthest, losses, make_lab
from tests.parallel.machines import ROOT, Launcher, wait_for

ETCD = shutil.which("etcd", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
pytestmark = [
    pytest.mark.skipif(not os.environ.get("PADDLE_SFT_PARALLEL"), reason="make parallel sets PADDLE_SFT_PARALLEL"),
    pytest.mark.skipif(
        ETCD is None or find_spec("etcd3") is None, reason="no etcd server or client here (extras elastic and dev)"
    ),
]
STEPS = 16


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    """HOST:PORT of a server of its own."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [ETCD, "--data-dir", str(tmp_path_factory.mktemp("etcd")), "--listen-client-urls", client]
    command += ["--advertise-client-urls", client, "--listen-peer-urls", peer]
    command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        yield client[len("http://") :]
        server.terminate()


def machine(name: str, etcd: str, lab, file: str) -> Launcher:
    words = ["--nnodes", "1:2", "--master", f"etcd://{etcd}", "--job_id", "elastic", "--elastic_timeout", "6"]
    words += ["--max_restart", "6", "--nproc", "1"]
    return Launcher([*words, str(ROOT / "run_finetune.py"), file], lab.runs, name)


def test_a_killed_rank_starts_again_and_a_lost_machine_is_done_without(etcd, tmp_path):
    lab = make_lab(tmp_path)
    steps = {"max_steps": STEPS, "save_steps": 2, "per_device_train_batch_size": 2, "global_batch_size": 4}
    alone(lab.job("one", {}, 1, "lora", **steps))
    job = lab.job("elastic", {}, 2, "lora", **steps)
    output = lab.output("elastic")
    first, second = machines = [machine(name, etcd, lab, job["file"]) for name in ("a", "b")]
    try:
        wait_for((output / "checkpoint-2").is_dir, machines)
        os.kill(second.ranks()[0], signal.SIGKILL)
        wait_for(lambda: first.said.count("Run Pod") > 1 and second.said.count("Run Pod") > 1, machines)
        saved = {path.name for path in output.glob("checkpoint-*")}
        wait_for(lambda: {path.name for path in output.glob("checkpoint-*")} - saved, machines)
        second.kill()
        assert first.wait() == 0, first.said[-3000:]
    finally:
        for launcher in machines:
            launcher.kill(signal.SIGTERM)
    assert first.said.count("Run Pod") >= 3
    assert len(losses(output)) == STEPS
    assert max(abs(a - b) for a, b in zip(losses(lab.output("one")), losses(output))) < TOLERANCE
    assert farthest(lab.output("one") / "adapter.safetensors", output / "adapter.safetensors") < TOLERANCE
    assert not second.ranks()


def test_a_mistake_of_the_user_is_not_tried_again(etcd, tmp_path, capfd):
    script = tmp_path / "mistake.py"
    script.write_text("raise SystemExit(2)", encoding="utf-8")
    options = ["--nnodes", "1", "--master", f"etcd://{etcd}", "--job_id", "mistake", "--elastic_timeout", "2"]
    assert main([*options, "--nproc", "1", "--log_dir", str(tmp_path), str(script)]) == 2
    assert capfd.readouterr().err.count("Run Pod") == 1


def test_too_few_machines_are_a_failure_and_not_a_success(etcd, tmp_path, capfd):
    script = tmp_path / "never.py"
    script.write_text("raise SystemExit(0)", encoding="utf-8")
    options = ["--nnodes", "2:3", "--master", f"etcd://{etcd}", "--job_id", "few", "--elastic_timeout", "2"]
    assert main([*options, "--nproc", "1", "--log_dir", str(tmp_path), str(script)]) == 75
    assert "too few machines came" in capfd.readouterr().err


# ---- alarms: what paddlepaddle 3.3.1 and etcd3 0.12 lack; red when they no longer do ---------------------------------


def python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "PROTOCOL_BUFFERS", "CUDA_VISIBLE"))}
    command = [sys.executable, *words]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=120)


def test_alarm_etcd3_still_needs_the_slow_protobuf():
    assert "Descriptors cannot be created directly" in python("-c", "import etcd3").stderr


def test_alarm_paddle_still_ends_with_0_when_machines_do_not_come(etcd, tmp_path):
    script = tmp_path / "never.py"
    script.write_text("raise SystemExit(3)", encoding="utf-8")
    options = ["--nnodes", "2:3", "--master", f"etcd://{etcd}", "--job_id", "alarm.", "--elastic_timeout", "2"]
    options += ["--nproc_per_node", "1", "--log_dir", str(tmp_path), str(script)]
    done = python("-m", "paddle.distributed.launch", *options, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    assert "peer not ready" in done.stderr and done.returncode == 0


def test_alarm_a_job_still_clears_the_entries_of_jobs_whose_names_go_on():
    from paddle.distributed.launch.controllers.master import ETCDMaster

    source = inspect.getsource(ETCDMaster.register_heartbeat)
    assert "self.job_prefix = f'/paddle/{job_id}'" in source and "delete_prefix(self.job_prefix)" in source
