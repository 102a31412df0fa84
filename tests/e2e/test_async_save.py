"""use_async_save: the same checkpoints, written while training goes on."""

from __future__ import annotations

import signal
import textwrap
import threading

import pytest

from paddle_sft.core import atomic
from tests.e2e.commands import TRAIN, checkpoints, differences, here, process, read_json

EVALUATED = dict(
    evaluation_strategy="steps", eval_steps=2, load_best_model_at_end=True, max_steps=8, save_total_limit=1
)
KINDS = {"lora": dict(lora_dropout=0.1), "full": dict(lora=None, learning_rate=1e-3)}
KILLED_IN_A_SAVE = textwrap.dedent(
    """
    import os, signal, sys
    from paddle_sft.cli.entry import run
    from paddle_sft.core import atomic
    rename = atomic._take_place
    def kill_at_second(beside, target, *rest):
        if target.name == "checkpoint-4":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(beside, target, *rest)
    atomic._take_place = kill_at_second
    sys.exit(run("paddle_sft.cli.finetune", sys.argv[1:]))
    """
)


@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_what_a_synchronous_run_leaves_byte_for_byte(lab, tmp_path, kind, monkeypatch):
    writers, rename = set(), atomic._take_place

    def noting(beside, target, *rest):
        writers.add(threading.current_thread().name)
        rename(beside, target, *rest)

    monkeypatch.setattr(atomic, "_take_place", noting)
    for name, is_async in (("sync", False), ("async", True)):
        writers.clear()
        lab.train(tmp_path / name, use_async_save=is_async, **EVALUATED, **KINDS[kind])
        assert writers == ({"checkpoint writer"} if is_async else {"MainThread"})
    assert differences(tmp_path / "sync", tmp_path / "async") == ["arguments.json"]
    found = checkpoints(tmp_path / "async")
    assert found[-1] == 8 and len(found) <= 2  # the newest, and the best one


def test_killed_while_a_checkpoint_is_written_the_same_command_goes_on_from_the_one_before(lab, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "out"
    command = lab.write(output, max_steps=6, use_async_save=True)
    here(TRAIN, command).succeeded()
    output.rename(whole)
    killed = process("-c", KILLED_IN_A_SAVE, command)
    assert killed.code == -signal.SIGKILL, killed.err
    assert checkpoints(output) == [2]
    outcome = here(TRAIN, command).succeeded()
    assert f"passing over {output / 'checkpoint-4'}: the run was killed while it was written" in outcome.err
    assert str(output / "checkpoint-2") in outcome.out
    assert differences(whole, output) == []
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []


def test_a_disk_that_fills_up_stops_the_run_in_the_words_of_a_synchronous_save(lab, tmp_path, monkeypatch):
    rename, said = atomic._take_place, []

    def no_room(beside, target, *rest):
        if target.name == "checkpoint-4":
            raise OSError(28, "No space left on device")
        rename(beside, target, *rest)

    monkeypatch.setattr(atomic, "_take_place", no_room)
    for is_async in (False, True):
        output = tmp_path / "out"
        outcome = here(TRAIN, lab.write(output, use_async_save=is_async, max_steps=20))
        outcome.refused("can't save", "checkpoint-4", "the last good checkpoint is", "checkpoint-2")
        said.append([line for line in outcome.err.splitlines() if "can't save" in line])
        assert checkpoints(output) == [2]
    assert said[0] == said[1]


def test_a_best_checkpoint_that_is_damaged_is_no_result(lab, tmp_path):
    """The loss falls, so with the largest as the best the first checkpoint is it."""
    output = tmp_path / "out"
    settings = {**EVALUATED, "save_total_limit": None, "greater_is_better": True}
    lab.train(output, **settings)
    assert read_json(output / "checkpoint-8/trainer_state.json")["best_checkpoint"] == "checkpoint-2"
    weights = output / "checkpoint-2/adapter.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    words = ("the best checkpoint so far", "checkpoint-2", "load_best_model_at_end to false")
    here(TRAIN, lab.write(output, **settings)).refused(*words)
    here(
        TRAIN, lab.write(output, **{**settings, "load_best_model_at_end": False, "greater_is_better": None})
    ).succeeded()
