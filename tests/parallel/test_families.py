"""Two ranks on CPU processes, tensor- or pipeline-parallel, compute the loss and the gradients of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import paddle
import pytest
from paddle import _C_ops
from paddle.base import core
from paddle.distributed import ParallelEnv

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.parallel import cpu_backend

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.mark.parametrize("mode", ["tp", "pp"])
def test_two_ranks_compute_a_step_of_one_process(mode, tmp_path):
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path)]
    env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    env.update(OMP_NUM_THREADS="1")
    done = subprocess.run([*launch, str(SCRIPT), mode], env=env, cwd=tmp_path, timeout=300, capture_output=True)
    logs = [(tmp_path / f"workerlog.{rank}").read_text(encoding="utf-8") for rank in (0, 1)]
    assert done.returncode == 0, "\n".join(log[-3000:] for log in logs)
    results = [json.loads(line[7:]) for log in logs for line in log.splitlines() if line.startswith("RESULT ")]
    assert sorted(found["family"] for found in results) == sorted(["llama", "qwen2", "qwen3"] * 2)
    for found in results:
        assert abs(found["loss"] - found["expected"]) < 1e-5 and found["worst"] < 1e-5, found
    for family in ("llama", "qwen2", "qwen3"):
        ranks = [set(found["names"]) for found in results if found["family"] == family]
        whole = next(set(found["whole"]) for found in results if found["family"] == family)
        assert ranks == [whole, whole] if mode == "tp" else (ranks[0] | ranks[1] == whole and not ranks[0] & ranks[1])


def test_the_back_end_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with pytest.raises(PaddleSFTError, match="gpu:0"):
        cpu_backend.install()


def test_operators_of_tensor_parallelism_have_no_cpu_kernel():
    """Alarm, paddlepaddle 3.3.1: when one computes, its piece of parallel/cpu_backend.py can go."""
    for call in (lambda x: _C_ops.c_identity(x, 0, True, True), lambda x: _C_ops.c_concat(x, 0, 1, 0, True, True)):
        with pytest.raises(RuntimeError, match="cpu kernel"):
            call(paddle.ones([2, 2]))


def test_gloo_has_no_form_for_streams(monkeypatch):
    """Alarm, paddlepaddle 3.3.1: as above, for `all_reduce_now` and `StageExchange`."""
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = core.ProcessGroupGloo.create(core.TCPStore("127.0.0.1", port, True, 1, 30), 0, 1, 0)
    for call in (
        lambda x: group.all_reduce_on_calc_stream(x, core.ReduceOp.SUM),
        lambda x: group.send_on_calc_stream(x, 0),
    ):
        with pytest.raises(NotImplementedError):
            call(paddle.ones([2]))


def test_a_rank_without_a_gpu_has_no_device_id():
    """Alarm, paddlepaddle 3.3.1: as above."""
    assert "_device_id" not in vars(ParallelEnv) and not core.is_compiled_with_cuda()
    with pytest.raises(AttributeError, match="_device_id"):
        ParallelEnv().device_id
