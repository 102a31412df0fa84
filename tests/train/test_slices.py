"""Ranks that share the tokens of a row see each token once, and nothing that is filled in is trained."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.records import IGNORED
from paddle_sft.data.collate import collate, collate_rows
from paddle_sft.train.slices import part_of_rows, widen
from tests import tiny

SAMPLES = tiny.make_samples(5, seed=3)


@pytest.mark.parametrize("batch", [collate(SAMPLES, 3), collate_rows([SAMPLES[:3], SAMPLES[3:]], 3)])
def test_widened_rows_hold_the_same_and_train_the_same(batch):
    wide = widen(batch, 8, 3)
    width = batch.input_ids.shape[1]
    assert width % 8 and wide.input_ids.shape[1] % 8 == 0 and wide.input_ids.shape[1] - width < 8
    np.testing.assert_array_equal(wide.input_ids[:, :width], batch.input_ids)
    np.testing.assert_array_equal(wide.labels[:, :width], batch.labels)
    assert (wide.labels[:, width:] == IGNORED).all()
    assert {sum(row) for row in wide.segment_lengths} == {wide.input_ids.shape[1]}
    for before, after in zip(batch.segment_lengths, wide.segment_lengths):
        assert before[:-1] == after[: len(before) - 1]  # no boundary inside the row moved


def test_rows_of_the_right_length_stay_as_they_are():
    batch = collate(SAMPLES, 3)
    assert widen(batch, 1, 3) is batch


def test_parts_of_rows_are_the_row():
    batch = widen(collate_rows([SAMPLES[:3], SAMPLES[3:]], 3), 4, 3)
    parts = [part_of_rows(batch, part, 4) for part in range(4)]
    for name in ("input_ids", "labels"):
        np.testing.assert_array_equal(np.concatenate([getattr(one, name) for one in parts], 1), getattr(batch, name))
    assert all(one.segment_lengths == batch.segment_lengths for one in parts)
