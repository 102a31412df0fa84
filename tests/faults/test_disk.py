"""A disk that is really full, or read-only: a small one of memory is mounted where that is allowed.

tests/e2e/test_bad_output.py has the same with a limit on the size of files, which every user may set.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from paddle_sft.train import checkpoint
from tests.e2e.commands import TRAIN, checkpoints, differences, here, snapshot

LARGE = dict(lora_rank=128, max_steps=6, disable_tqdm=True)
"""A checkpoint has about 1.5 MB, of which the optimizer's state has 950 kB."""


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kilobytes; returns its folder and what mounts it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        return place

    yield mount
    while os.path.ismount(place):
        subprocess.run(["umount", "-l", place], check=True)


def remount(place, options):
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact_and_space_lets_it_go_on(lab, tmp_path, small_disk):
    lab.train(tmp_path / "whole", **LARGE)
    output = small_disk("size=2500k") / "out"
    command = lab.write(output, **LARGE)

    outcome = here(TRAIN, command)
    outcome.refused("can't save", "checkpoint-4", "No space left", "the last good checkpoint is", "same command again")
    assert checkpoints(output) == [2]
    assert checkpoint.last_good(output) == output / "checkpoint-2"
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []
    before = snapshot(output / "checkpoint-2")
    here(TRAIN, command).refused("No space left")
    assert snapshot(output / "checkpoint-2") == before

    remount(output.parent, "size=20m")
    here(TRAIN, command).succeeded()
    assert differences(tmp_path / "whole", output) == ["arguments.json"]  # which names output_dir


def test_a_disk_that_becomes_read_only_stops_the_run_with_the_last_checkpoint_intact(
    lab, tmp_path, small_disk, monkeypatch
):
    output = small_disk("size=20m") / "out"
    command = lab.write(output, **LARGE)
    write = checkpoint.write_json
    turned = []

    def turning(path, *rest):
        if "checkpoint-4" in str(path) and not turned:  # in the middle of the second save
            turned.append(subprocess.run(["mount", "-o", "remount,ro", output.parent]).returncode)
        return write(path, *rest)

    monkeypatch.setattr(checkpoint, "write_json", turning)
    outcome = here(TRAIN, command)
    outcome.refused("Read-only file system", "run the same command again")
    assert turned == [0]
    assert checkpoint.last_good(output) == output / "checkpoint-2"
    here(TRAIN, command).refused("can't write into", "Read-only file system")

    remount(output.parent, "rw")
    here(TRAIN, command).succeeded()
    lab.train(tmp_path / "whole", **LARGE)
    assert differences(tmp_path / "whole", output) == ["arguments.json"]  # which names output_dir
