"""PoSE runs, as a user starts them."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.models.packed import RowLayout
from tests.e2e.commands import TRAIN, differences, here, losses, rewind

POSE = dict(use_pose_convert=True, pose_max_length=200, lora_dropout=0.0)


@pytest.fixture
def reached(monkeypatch):
    """What each call for new rows said of their positions, in order."""
    found = []
    plain = RowLayout.set

    def noting(self, segment_lengths, positions=None, *others):
        found.append(positions)
        plain(self, segment_lengths, positions, *others)

    monkeypatch.setattr(RowLayout, "set", noting)
    return found


@pytest.mark.parametrize("packing", ["best_fit", None])
def test_training_reads_skipped_positions_and_resumes_with_the_same(lab, tmp_path, reached, packing):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, packing=packing, do_eval=True, **POSE)
    outcome = here(TRAIN, command).succeeded()
    assert "below 200" in outcome.out and "PoSE" in outcome.out
    steps = [one for one in reached if one is not None]
    assert len(steps) == 4 and reached[4:] and all(one is None for one in reached[4:])  # dev sets are read as they are
    assert 64 < max(one.max() for one in steps) < 200
    output.rename(whole)
    rewind(whole, output, 2)
    reached.clear()
    here(TRAIN, command).succeeded()
    assert differences(whole, output) == []
    for again, one in zip(reached, steps[2:]):
        np.testing.assert_array_equal(again, one)
    plain = lab.write(output, packing=packing, do_eval=True, lora_dropout=0.0)
    rewind(whole, output, 2)
    here(TRAIN, plain).refused("belongs to another run", "pose_max_length was 200, now None")


def test_positions_do_not_depend_on_how_a_step_is_cut(lab, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    lab.train(one, max_steps=3, **POSE)
    lab.train(other, max_steps=3, per_device_train_batch_size=1, gradient_accumulation_steps=4, **POSE)
    np.testing.assert_allclose(losses(one), losses(other), atol=1e-5)


def test_a_model_without_such_positions_is_refused_before_training(lab, tmp_path, model_folder):
    command = lab.write(tmp_path / "out", model_name_or_path=str(model_folder("bloom")), **POSE)
    here(TRAIN, command).refused("a bloom model has none", "leave use_pose_convert out")
