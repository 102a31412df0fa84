"""Killed while it writes its results, a run that has no checkpoint begins again under the same command."""

from __future__ import annotations

import pytest

from paddle_sft.cli import wiring
from tests.e2e.commands import TRAIN, checkpoints, differences, here

SHORT = dict(max_steps=2, save_strategy="no", do_eval=True)


def kill(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["move_into", "write_results", "plot_loss"])
def test_a_kill_among_the_results_is_mended_by_the_same_command(lab, tmp_path, monkeypatch, where):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, **SHORT, plot_loss=True)
    here(TRAIN, command).succeeded()
    output.rename(whole)

    with monkeypatch.context() as patch:
        patch.setattr(wiring, where, kill)
        assert here(TRAIN, command).code == 130
    assert checkpoints(output) == []
    assert differences(whole, output) != []

    here(TRAIN, command).succeeded()
    assert differences(whole, output) == []
    here(TRAIN, command).refused("is not empty", "overwrite_output_dir")  # a finished run is nobody's to overwrite


def test_a_profile_of_a_killed_run_is_nothing_to_lose(lab, tmp_path, monkeypatch):
    command = lab.write(tmp_path / "out", **SHORT, profile=True, profile_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(wiring, "save", kill)
        assert here(TRAIN, command).code == 130
    assert (tmp_path / "out" / "profile.txt").is_file()
    (tmp_path / "out" / ".writing-results").unlink()  # as if it had been killed a step earlier
    here(TRAIN, command).succeeded()
