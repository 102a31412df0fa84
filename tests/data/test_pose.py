"""Positions that skip, against the paper's definition written out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from paddle_sft.core.records import Sample
from paddle_sft.data.collate import collate_rows
from paddle_sft.data.pose import SkippedPositions, skip_positions
from tests import tiny


def all_positions(num_tokens, target):
    """Every assignment of the paper for two chunks: first chunk l_0 tokens from 0, second from l_0 + u_1."""
    found = []
    for first in range(1, num_tokens):
        for skip in range(target - num_tokens + 1):
            found.append(tuple(range(first)) + tuple(token + skip for token in range(first, num_tokens)))
    return found


@pytest.mark.parametrize("num_tokens, target", [(2, 3), (3, 5), (4, 6), (5, 6)])
def test_every_assignment_of_the_paper_is_drawn_and_equally_often(num_tokens, target):
    random = np.random.default_rng(0)
    wanted = Counter(all_positions(num_tokens, target))
    times = 400
    drawn = Counter(
        tuple(skip_positions(num_tokens, target, random).tolist()) for _ in range(times * sum(wanted.values()))
    )
    assert drawn.keys() == wanted.keys()
    for positions, ways in wanted.items():  # 6 standard deviations
        assert abs(drawn[positions] - times * ways) < 6 * np.sqrt(times * ways)


@pytest.mark.parametrize("num_tokens, target", [(1, 9), (9, 9), (12, 9)])
def test_nothing_is_skipped_where_there_is_no_room(num_tokens, target):
    assert skip_positions(num_tokens, target, np.random.default_rng(0)).tolist() == list(range(num_tokens))


def positions_by_sample(rows, pose, step):
    """{place: positions}, read off a batch token by token."""
    batch = pose.place(collate_rows(rows, 0), step)
    found = {}
    for row, samples in enumerate(rows):
        start = 0
        for sample in samples:
            found[sample.place] = batch.positions[row, start : start + len(sample)].tolist()
            start += len(sample)
        assert not batch.positions[row, start:].any()
    return found


def test_a_sample_is_at_the_same_positions_in_any_row_and_at_others_in_another_step_or_run():
    samples = tiny.make_samples(6, longest=9)
    pose = SkippedPositions(4096, seed=3)
    alone = positions_by_sample([[sample] for sample in samples], pose, step=5)
    assert positions_by_sample([samples[4:], samples[:4]], pose, step=5) == alone
    assert all(max(one) < 4096 and one[0] == 0 for one in alone.values())
    for other in (positions_by_sample([samples], pose, step=6),
                  positions_by_sample([samples], SkippedPositions(4096, seed=4), step=5)):  # fmt: skip
        assert all(other[place] != positions for place, positions in alone.items())


def test_ids_labels_and_segments_stay():
    samples = [[Sample(np.arange(5, dtype=np.int32), np.ones(5, bool))], tiny.make_samples(2)]
    before = collate_rows(samples, 0)
    after = SkippedPositions(99, seed=0).place(before, 1)
    assert before.positions is None
    for name in ("input_ids", "labels"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("segment_lengths", "num_trained", "sample_lengths"):
        assert getattr(after, name) == getattr(before, name)
