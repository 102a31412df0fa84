"""Machines with disks of their own, and errors that one rank meets, with three real ranks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddle_sft.core.tensorfile import write_arrays
from paddle_sft.train.checkpoint import Progress, RunState, save_checkpoint

SCRIPT = Path(__file__).with_name("disk_ranks.py")
RANKS = 3


class Weights:
    """A file of 30,000 equal bytes."""

    def __init__(self, byte):
        self.byte = byte

    def write(self, place):
        if place.suffix:
            write_arrays(place, {"x/moment1_0": np.zeros(3, np.float32)})
        else:
            place.joinpath("weights").write_bytes(bytes([self.byte]) * 30_000)
            place.joinpath("empty").write_bytes(b"")


def put(disk, step, byte):
    folder = disk / f"checkpoint-{step}"
    save_checkpoint(folder, Weights(byte), Weights(byte), RunState({}, {}), Progress(step))
    return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the ranks saw. The first disk has steps 2 and 6, of which 6 is damaged; the second has step 4."""
    root = tmp_path_factory.mktemp("machines")
    put(root / "first", 2, 0x22)
    (put(root / "first", 6, 0x66) / "weights").write_bytes(bytes(30_000))
    put(root / "second", 4, 0x44)
    for disk in ("first", "second"):
        (root / disk / "new").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE"))}
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(RANKS), "--log_dir", str(root / "log")]
    command = [sys.executable, *launcher, str(SCRIPT), str(root)]
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, env=environment, cwd=root, timeout=180, capture_output=True, text=True)
    logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted((root / "log").glob("workerlog.*")))
    assert done.returncode == 0, f"{logs}\n{done.stderr[-2000:]}"
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in range(RANKS)]


def test_ranks_that_see_the_same_folder_are_found(seen):
    assert [one["leads"] for one in seen] == [True, True, False]
    assert [one["of shared"] for one in seen] == [True, False, False]
    assert all(one["shared"] for one in seen)
    for one in seen:
        value, why = one["text"]
        assert value == "on the machine of rank 0" and why.startswith("ranks 1, 2 can't see it")


def test_where_no_disk_has_a_checkpoint_all_start_afresh(seen):
    assert {one["nothing"] for one in seen} == {"None"}


def test_the_newest_good_checkpoint_goes_to_the_disks_that_lack_it(seen):
    """It is on the second machine: after a restart rank 0 may be where it was not before."""
    assert seen[0]["newest"] == ["first/.received-checkpoint-4", True, "44"]
    assert seen[1]["newest"] == seen[2]["newest"] == ["second/checkpoint-4", True, "44"]


def test_a_copy_goes_once_all_have_read_it(seen):
    assert seen[0]["after release"] == ["checkpoint-2", "checkpoint-6", "new"]
    assert seen[1]["after release"] == ["checkpoint-4", "new"]


def test_the_best_checkpoint_goes_to_the_disks_that_lack_it(seen):
    assert seen[0]["best"] == ["first/checkpoint-2", "22"]
    assert seen[1]["best"] == seen[2]["best"] == ["second/.received-checkpoint-2", "22"]


def test_a_checkpoint_that_no_disk_has_whole_is_refused_on_all_ranks(seen):
    assert "checkpoint-6 is damaged: " in seen[0]["damaged"]
    assert "no checkpoint of this suite" in seen[1]["damaged"]
    for one in seen:
        assert one["damaged"].startswith("CheckpointError: ")
        assert one["gone"].startswith("CheckpointError: ") and "is gone or damaged" in one["gone"]


def test_a_copy_that_was_changed_on_the_way_stops_all_ranks(seen):
    assert "CheckpointError: checkpoint-2 did not arrive whole on rank 1: " in seen[1]["changed"]
    assert all("did not arrive whole on rank 1" in one["changed"] for one in seen)


def test_a_disk_without_room_for_the_copy_stops_all_ranks(seen):
    assert seen[1]["no room"].startswith("CheckpointError: can't keep a copy of the checkpoint to go on from on ")
    for rank in (0, 2):
        assert seen[rank]["no room"].startswith("CheckpointError: rank 1 on ")
        assert "File too large" in seen[rank]["no room"]


def test_what_one_rank_meets_all_ranks_say(seen):
    assert seen[1]["together"] == "ModelError: no model folder here"
    for rank in (0, 2):
        assert seen[rank]["together"].startswith("ModelError: rank 1 on ")
        assert seen[rank]["together"].endswith(": no model folder here")


def test_an_error_of_the_writer_stops_all_ranks_at_the_next_step(seen):
    words = "can't save .*/first/checkpoint-8: No space left on device; the last good checkpoint is .*/checkpoint-2"
    for rank, begin in enumerate(("CheckpointError: can't", "CheckpointError: rank 0 on ", "CheckpointError: rank 0 ")):
        assert seen[rank]["writer"].startswith(begin)
        assert re.search(words, seen[rank]["writer"])
    assert [one["last good"] for one in seen] == ["checkpoint-2", "checkpoint-4", "checkpoint-4"]
