from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.records import IGNORED, Sample
from paddle_sft.data.collate import collate


def sample(ids, trained):
    return Sample(np.array(ids, dtype=np.int32), np.array(trained, dtype=bool))


def slow_labels(samples, length):
    """The definition, token by token."""
    labels = []
    for one in samples:
        row = []
        for t in range(length):
            follows = t + 1 < len(one.ids)
            row.append(int(one.ids[t + 1]) if follows and one.trained[t + 1] else IGNORED)
        labels.append(row)
    return labels


def test_labels_are_the_next_trained_token():
    draw = np.random.default_rng(0)
    for _ in range(50):
        lengths = draw.integers(1, 9, size=draw.integers(1, 5))
        samples = [sample(draw.integers(0, 99, n), draw.integers(0, 2, n)) for n in lengths]
        batch = collate(samples, pad_token_id=0)
        assert batch.input_ids.dtype == batch.labels.dtype == np.int64
        assert batch.labels.tolist() == slow_labels(samples, max(lengths))
        assert batch.num_trained == sum(one.num_trained for one in samples)
        for row, one in zip(batch.input_ids, samples):
            assert row.tolist() == one.ids.tolist() + [0] * (max(lengths) - len(one))


def test_a_pad_id_that_is_also_the_end_token_hides_no_label():
    batch = collate([sample([5, 6, 2], [0, 1, 1]), sample([5, 2], [0, 1])], pad_token_id=2)
    assert batch.labels.tolist() == [[6, 2, IGNORED], [2, IGNORED, IGNORED]]
    assert batch.input_ids.tolist() == [[5, 6, 2], [5, 2, 2]]


def test_no_samples_or_no_pad_id_is_the_callers_error():
    with pytest.raises(ValueError, match="no samples"):
        collate([], 0)
    with pytest.raises(ValueError, match="pad_token_id is None"):
        collate([sample([1, 2], [0, 1])], None)
