"""Machines that come and go, over Paddle's etcd mode and a real etcd: `make parallel`."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paddle_sft.cli.launch import main
from tests.e2e.commands import GATED_RUN, free_port
from tests.e2e.gated_run import open_gate
from tests.parallel.layouts import TOLERANCE, alone, farthest, losses, make_lab
from tests.parallel.machines import Launcher, wait_for

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
        host, port = client[len("http://") :].split(":")
        wait_for(lambda: answers(host, int(port)))
        yield f"{host}:{port}"
        server.terminate()


def answers(host: str, port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((host, port)) == 0


def machine(name: str, etcd: str, lab, *script: str) -> Launcher:
    words = ["--nnodes", "1:2", "--master", f"etcd://{etcd}", "--job_id", "elastic", "--elastic_timeout", "6"]
    words += ["--max_restart", "6", "--nproc", "1"]
    return Launcher([*words, *script], lab.runs, name)


def starts(machines):
    """How often each began: one may begin alone, if the other is late."""
    return [launcher.said.count("Run Pod") for launcher in machines]


def test_a_killed_rank_starts_again_and_a_lost_machine_is_done_without(etcd, tmp_path):
    lab = make_lab(tmp_path)
    steps = {"max_steps": STEPS, "save_steps": 2, "per_device_train_batch_size": 2, "global_batch_size": 4}
    alone(lab.job("one", {}, 1, "lora", **steps))
    job = lab.job("elastic", {}, 2, "lora", **steps)
    output = lab.output("elastic")
    gate = open_gate(tmp_path / "gate", 5)
    script = (str(GATED_RUN), str(gate), job["file"])
    first, second = machines = [machine(name, etcd, lab, *script) for name in ("a", "b")]
    try:
        wait_for(lambda: second.ranks() and (output / "checkpoint-4").is_dir(), machines)
        before = starts(machines)
        os.kill(second.ranks()[0], signal.SIGKILL)
        wait_for(lambda: all(now > then for now, then in zip(starts(machines), before)), machines)
        open_gate(gate, 9)
        wait_for(lambda: second.ranks() and (output / "checkpoint-8").is_dir(), machines)
        second.kill()
        open_gate(gate, STEPS)
        assert first.wait() == 0, first.said[-3000:]
    finally:
        for launcher in machines:
            launcher.kill(signal.SIGTERM)
    assert starts([first])[0] >= 3
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
