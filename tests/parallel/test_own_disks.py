"""Runs whose ranks see no output_dir but their own, against one process: `make parallel`."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from tests import tiny
from tests.parallel.layouts import TOLERANCE, TWO, alone, distances, farthest, launch, losses, make_lab

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="minutes long: make parallel sets PADDLE_SFT_PARALLEL"
)
BEST = {"load_best_model_at_end": True, "greater_is_better": True, "max_steps": 4, "do_eval": True}
"""The loss falls, so with the largest as the best the first checkpoint is it: at the end it is fetched once more."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """`own` begins on two machines; `own-resumed` goes on where only the second machine has its checkpoint."""
    lab = make_lab(tmp_path_factory.mktemp("disks"))
    machines = lab.runs / "machines"
    for rank in (0, 1):
        (machines / str(rank)).mkdir(parents=True)
    alone(lab.job("one", {}, 1, "lora", use_async_save=True))
    alone(lab.job("one-best", {}, 1, "lora", **BEST))
    at = {"_machines": str(machines)}
    launch([lab.job("own", TWO["tp2"], 2, "lora", output_dir="own", use_async_save=True, **at)], 2, lab.runs / "log-a")
    shutil.copytree(machines / "0/own/checkpoint-2", machines / "1/own-resumed/checkpoint-2")
    shutil.copytree(lab.model, machines / "0/only-here")
    tiny.make_data(machines / "0/data", num_train=40)
    tiny.make_data(machines / "1/data", num_train=39)
    offload = {"sharding": "stage2 offload"}
    refused = {**at, "_code": 2, "max_steps": 1, "eval_steps": 1}
    jobs = [
        lab.job(
            "own-resumed", TWO["stage3"], 2, "lora", output_dir="own-resumed", save_steps=1, save_total_limit=1, **at
        ),
        lab.job("own-best", TWO["dp2"], 2, "lora", output_dir="own-best", **BEST, **at),
        lab.job("offload", offload, 2, "lora"),
        lab.resumed("offload-to-tp2", "offload", TWO["tp2"], 2, "lora"),
        lab.resumed("one-to-offload", "one", TWO["stage3-offload"], 2, "lora"),
        lab.job("model", TWO["dp2"], 2, "lora", model_name_or_path="./only-here", output_dir="model", **refused),
        lab.job("data", TWO["dp2"], 2, "lora", dataset_name_or_path="data", output_dir="data-out", **refused),
    ]
    launch(jobs, 2, lab.runs / "log-b")
    return lab


def test_a_run_on_disks_of_their_own_equals_one_process(lab):
    found = distances(lab.output("one"), lab.runs / "machines/0/own")
    assert max(found.values()) < TOLERANCE, found
    assert not list((lab.runs / "machines/1/own").glob("[!.]*"))  # all is on the machine of rank 0


def test_it_goes_on_from_a_checkpoint_that_rank_0_does_not_see(lab):
    one, other = lab.output("one"), lab.runs / "machines/0/own-resumed"
    assert losses(other) == pytest.approx(losses(one), abs=TOLERANCE)
    assert farthest(one / "adapter.safetensors", other / "adapter.safetensors") < TOLERANCE
    assert not (other / "checkpoint-2").exists()
    # it was older than the limit allows when step 3 was saved on the first machine
    assert not list((lab.runs / "machines/1/own-resumed").glob("checkpoint-*"))
    assert [path.name for path in other.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not list((lab.runs / "machines").glob("*/*/.received-*"))


def test_the_result_is_the_best_checkpoint_on_every_rank(lab):
    one, other = lab.output("one-best"), lab.runs / "machines/0/own-best"
    assert farthest(one / "adapter.safetensors", other / "adapter.safetensors") < TOLERANCE
    assert losses(one, "eval_loss")[-1] == losses(one, "eval_loss")[0]  # evaluated once more at the end, by all ranks
    assert losses(other, "eval_loss") == pytest.approx(losses(one, "eval_loss"), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["offload", "offload-to-tp2", "one-to-offload"])
def test_the_optimizer_on_the_host_computes_and_saves_what_the_plain_one_does(lab, name):
    found = distances(lab.output("one"), lab.output(name))
    assert max(found.values()) < TOLERANCE, found


def test_the_plan_says_where_checkpoints_are(lab):
    said = (lab.runs / "log-b/workerlog.0").read_text(encoding="utf-8")
    assert re.search(r"output_dir +on the machine of rank 0  \(rank 1 can't see it", said)


@pytest.mark.parametrize(
    "words", ["no model folder ./only-here", "rank 1 trains on other samples than rank 0 (they differ in "]
)
def test_what_only_one_machine_lacks_all_ranks_say(lab, words):
    for rank in (0, 1):
        log = (lab.runs / f"log-b/workerlog.{rank}").read_text(encoding="utf-8")
        assert words in log
        assert "Traceback" not in log
