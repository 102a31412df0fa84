"""Two ranks compute the step of one, to 1e-5 in every gradient, and leave out the same step: `make parallel`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.invariants import steps
from tests.invariants.test_every_way import METHODS, NUM, PLAIN, files, plain, read, require_same  # noqa: F401

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="half a minute: make parallel sets PADDLE_SFT_PARALLEL"
)


def test_two_ranks_compute_the_step_of_one_and_leave_out_the_same_step(files, plain, tmp_path):  # noqa: F811
    """One launch for all: full and LoRA, padded and packed; and a run in which one of the ranks meets a NaN."""
    halved = {"per_device_train_batch_size": NUM // 2}
    shared = {method: files(f"two-{method}", **{**PLAIN, **halved}, **keys) for method, keys in METHODS.items()}
    packed = files("two-packed", packing="best_fit", per_device_train_batch_size=1, gradient_accumulation_steps=NUM)
    spoilt = files("spoilt", **{**PLAIN, **halved}, nonfinite_step="skip", log_level="warning", shuffle=False)
    launch = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path)]
    env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    words = [*launch, steps.__file__, *map(str, [*shared.values(), packed, spoilt])]
    done = subprocess.run(words, env={**env, "OMP_NUM_THREADS": "1"}, cwd=tmp_path, timeout=300, capture_output=True)
    logs = [(tmp_path / f"workerlog.{rank}").read_text(encoding="utf-8") for rank in (0, 1)]
    assert done.returncode == 0, "\n".join(log[-3000:] for log in logs)
    for method, file in shared.items():
        require_same(read(file), plain[method])
    require_same(read(packed), plain["full"])
    found = read(spoilt)
    assert found["skipped"] == 1 and "1/loss" in found and "2/loss" not in found
    lines = [f"train.json line {number}" for number in range(NUM // 2 + 1, NUM + 1)]  # the second rank's half
    said = next(line for line in logs[0].splitlines() if "the loss of step 2 is nan" in line)
    assert "on rank 1" in said and all(line in said for line in lines) and "line 1," not in said
    assert "the loss of step 2 is nan" in logs[1]
