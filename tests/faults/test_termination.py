"""SIGTERM: a checkpoint at the end of the step, exit code 143, and the same command ends as if nothing had been."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

from paddle_sft.train import guard, trainer
from paddle_sft.train.guard import StepLosses
from paddle_sft.train.team import Team
from paddle_sft.train.termination import Termination
from tests.e2e.commands import TRAIN, checkpoints, differences, here, read_json

RUN = dict(max_steps=7, save_steps=3, logging_steps=2, lora_dropout=0.1, shuffle=True)


@pytest.fixture
def terminated_in(monkeypatch):
    """Send SIGTERM to this process in the middle of that step."""

    def prepare(step):
        pass_of = trainer.SFTTrainer._forward_backward

        def passing(self, number, data):
            if number + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return pass_of(self, number, data)

        monkeypatch.setattr(trainer.SFTTrainer, "_forward_backward", passing)

    yield prepare
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("step", [1, 4, 6], ids=["the first step", "between saves", "a step that saves anyway"])
def test_sigterm_saves_at_the_end_of_the_step_and_the_same_command_ends_the_same(
    lab, tmp_path, terminated_in, monkeypatch, step
):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, **RUN)
    here(TRAIN, command).succeeded()
    output.rename(whole)

    terminated_in(step)
    outcome = here(TRAIN, command)
    assert outcome.code == 143, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.count("SIGTERM") == 1
    assert f"after step {step} of 7 and saved {output / f'checkpoint-{step}'}; the same command goes on" in outcome.err
    assert checkpoints(output) == sorted({step, *range(3, step + 1, 3)})
    assert not (output / "adapter.safetensors").exists()

    monkeypatch.undo()
    assert f"checkpoint-{step}" in here(TRAIN, command).succeeded().out
    if step not in checkpoints(whole):
        shutil.rmtree(output / f"checkpoint-{step}")
    assert differences(whole, output) == []


def test_sigterm_in_the_last_step_lets_the_run_end_well(lab, tmp_path, terminated_in):
    terminated_in(7)
    lab.train(tmp_path / "out", **RUN)
    assert read_json(tmp_path / "out" / "train_results.json")["train_steps"] == 7


def test_sigterm_saves_where_no_checkpoints_were_asked_for(lab, tmp_path, terminated_in):
    terminated_in(2)
    assert here(TRAIN, lab.write(tmp_path / "out", **RUN, save_strategy="no")).code == 143
    assert checkpoints(tmp_path / "out") == [2]


def test_outside_of_training_the_signal_is_not_held_back():
    def before(*_):
        pass

    kept = signal.signal(signal.SIGTERM, before)
    try:
        with Termination() as termination:
            signal.raise_signal(signal.SIGTERM)
            assert termination.asked
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, kept)


class TwoRanks(Team):
    """Rank 0 of two that see different rows."""

    def __init__(self):
        super().__init__()
        self.groups, self.num_data = object(), 2


@pytest.mark.parametrize("asked", [(False, False), (True, False), (False, True), (True, True)])
def test_a_wish_of_any_rank_is_known_to_all_and_changes_no_loss(monkeypatch, asked):
    """The sum over ranks is made up: the other rank's table is added to ours."""
    other = np.array([[0.0, 0.0], [3.0, 4.0], [float(asked[1])] * 2])
    monkeypatch.setattr(guard.paddle.distributed, "all_reduce", lambda table: table.add_(guard.paddle.to_tensor(other)))
    losses = StepLosses(TwoRanks())
    for value in (1.0, 2.0):
        losses.add(guard.paddle.to_tensor(value))
    np.testing.assert_array_equal(losses.of_all_ranks(asked[0]), [[1.0, 2.0], [3.0, 4.0]])
    assert losses.anyone_asked is any(asked)
