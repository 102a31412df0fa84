"""Interrupted at any save and resumed = uninterrupted, bit for bit."""

from __future__ import annotations

import signal

import pytest

from paddle_sft.train import hybrid
from tests.e2e.commands import (
    GATED_RUN,
    TRAIN,
    checkpoints,
    differences,
    finish,
    here,
    losses,
    read_json,
    rewind,
    start,
    wait_until,
)
from tests.e2e.gated_run import open_gate

EVERYTHING_RANDOM = dict(
    neftune=True, shuffle=True, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=17,
    lr_scheduler_type="cosine", warmup_steps=3, weight_decay=0.1,
    logging_steps=3, evaluation_strategy="steps", eval_steps=4, save_steps=5,
)  # fmt: skip
LORA = dict(lora=True, lora_dropout=0.1)
FULL = dict(lora=None, learning_rate=1e-3)


@pytest.fixture
def samples_seen(monkeypatch):
    """The places of the samples of every training batch, in order."""
    seen = []
    collate = hybrid.collate_rows

    def noting(rows, fill):
        seen.append([sample.place for row in rows for sample in row])
        return collate(rows, fill)

    monkeypatch.setattr(hybrid, "collate_rows", noting)
    return seen


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_resuming_from_any_checkpoint_ends_as_the_uninterrupted_run(lab, tmp_path, samples_seen, method, optim):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, **EVERYTHING_RANDOM, **method, optim=optim)
    here(TRAIN, command).succeeded()
    order = list(samples_seen)
    output.rename(whole)
    assert checkpoints(whole) == [5, 10, 15]
    for step in checkpoints(whole):
        rewind(whole, output, step)
        samples_seen.clear()
        here(TRAIN, command).succeeded()
        assert differences(whole, output) == []
        assert 0 < len(samples_seen) < len(order)
        assert order[-len(samples_seen) :] == samples_seen


def test_dropout_noise_and_data_order_are_in_play_in_these_runs(lab, tmp_path):
    """Otherwise the test above would hold for a run that draws nothing."""
    settings = {**EVERYTHING_RANDOM, **LORA, "max_steps": 3, "evaluation_strategy": None, "eval_steps": None}
    settings["logging_steps"] = 1
    found = []
    for number, change in enumerate(({}, {"lora_dropout": 0.0}, {"neftune": None}, {"shuffle": False})):
        lab.train(tmp_path / str(number), **{**settings, **change})
        found.append(tuple(losses(tmp_path / str(number))))
    assert len(set(found)) == len(found)


def test_the_seed_decides_everything_even_the_adapters_first_values(lab, tmp_path):
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        lab.train(tmp_path / name, seed=seed, shuffle=False, learning_rate=0.0, max_steps=2)
    weights = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("one", "same", "other")]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_interrupted_by_the_keyboard_then_killed_the_same_command_still_ends_the_same(lab, tmp_path):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, **{**EVERYTHING_RANDOM, **LORA, "max_steps": 16, "save_steps": 4})
    here(TRAIN, command).succeeded()
    output.rename(whole)

    gate = open_gate(tmp_path / "gate", 6)
    job = start(GATED_RUN, gate, command)
    wait_until((output / "checkpoint-4").is_dir, job)
    job.send_signal(signal.SIGINT)
    interrupted = finish(job)
    assert interrupted.code == 130, interrupted.err
    assert "interrupted" in interrupted.err
    assert "Traceback" not in interrupted.err
    assert checkpoints(output) == [4]
    assert not (output / "adapter.safetensors").exists()

    open_gate(gate, 14)
    job = start(GATED_RUN, gate, command)
    wait_until((output / "checkpoint-12").is_dir, job)
    job.kill()
    assert finish(job).code == -signal.SIGKILL
    assert checkpoints(output) == [4, 8, 12]
    assert not (output / "adapter.safetensors").exists()

    resumed = here(TRAIN, command).succeeded()
    assert "resuming from" in resumed.out
    assert differences(whole, output) == []


def test_running_a_finished_command_again_changes_no_weight(lab, tmp_path, finished):
    before = (finished / "adapter.safetensors").read_bytes()
    lab.train(finished)
    assert (finished / "adapter.safetensors").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(lab, tmp_path, finished):
    whole = (finished / "adapter.safetensors").read_bytes()
    (finished / "adapter.safetensors").unlink()
    broken = finished / "checkpoint-4" / "optimizer.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    outcome = lab.train(finished)
    assert "passing over the damaged checkpoint" in outcome.err
    assert "optimizer.safetensors has" in outcome.err
    assert "resuming from" in outcome.out
    assert str(finished / "checkpoint-2") in outcome.out
    assert (finished / "adapter.safetensors").read_bytes() == whole


def test_resuming_where_early_stopping_had_stopped_stops_there_too(lab, tmp_path):
    """A run that was killed between its last checkpoint and its result must not train on."""
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(
        output, learning_rate=0.0, max_steps=20, evaluation_strategy="steps", eval_steps=2, save_steps=2,
        load_best_model_at_end=True, early_stopping=True, early_stopping_patience=2,
    )  # fmt: skip
    here(TRAIN, command).succeeded()
    assert read_json(output / "train_results.json")["train_steps"] == 6
    output.rename(whole)
    for step in checkpoints(whole):
        rewind(whole, output, step)
        here(TRAIN, command).succeeded()
        assert differences(whole, output) == []


def test_going_on_in_another_folder_from_a_named_checkpoint_finds_the_best_one_again(lab, tmp_path):
    """The best checkpoint lies in the folder of the first run."""
    best_first = dict(
        evaluation_strategy="steps", eval_steps=2, save_steps=2, load_best_model_at_end=True,
        greater_is_better=True,  # the loss falls, so the largest is the first
    )  # fmt: skip
    lab.train(tmp_path / "whole", max_steps=6, **best_first)
    assert read_json(tmp_path / "whole/checkpoint-6/trainer_state.json")["best_checkpoint"] == "checkpoint-2"
    named = str(tmp_path / "whole" / "checkpoint-4")
    lab.train(tmp_path / "onward", max_steps=6, resume_from_checkpoint=named, **best_first)
    left, right = (tmp_path / name / "adapter.safetensors" for name in ("whole", "onward"))
    assert left.read_bytes() == right.read_bytes()
