from __future__ import annotations

import math

import numpy as np
import pytest

from paddle_sft.export.receipt import compare_logits


def pairs(seed=0, size=0.01):
    random = np.random.default_rng(seed)
    before = [random.standard_normal((1, length, 11)).astype(np.float32) for length in (3, 17, 5)]
    after = [(one + size * random.standard_normal(one.shape)).astype(np.float32) for one in before]
    return before, after


def test_the_figures_are_over_all_positions():
    before, after = pairs(size=0.5)
    found = compare_logits(before, after)
    one, other = (np.concatenate([row[0] for row in rows]).astype(np.float64) for rows in (before, after))
    assert found["num_positions"] == 25
    assert found["max_abs_logit_difference"] == pytest.approx(np.abs(one - other).max(), rel=1e-6)
    assert found["mean_abs_logit_difference"] == pytest.approx(np.abs(one - other).mean(), rel=1e-6)
    assert found["top1_agreement"] == (one.argmax(-1) == other.argmax(-1)).mean() < 1
    divergence = 0.0
    for p, q in zip(one, other):
        p, q = np.exp(p) / np.exp(p).sum(), np.exp(q) / np.exp(q).sum()
        divergence += sum(a * math.log(a / b) for a, b in zip(p, q))
    assert found["kl"] == pytest.approx(divergence / 25, rel=1e-9)


def test_equal_models_differ_in_nothing():
    before, _ = pairs()
    found = compare_logits(before, before)
    assert (found["max_abs_logit_difference"], found["top1_agreement"], found["kl"]) == (0.0, 1.0, 0.0)


def test_large_logits_overflow_nothing():
    before, after = pairs()
    assert np.isfinite(compare_logits([1e4 * x for x in before], [1e4 * x for x in after])["kl"])


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_one_nan_anywhere_is_not_lost(prompt):
    before, after = pairs()
    after[prompt][0, 2, 4] = np.nan
    found = compare_logits(before, after)
    assert math.isnan(found["max_abs_logit_difference"]) and not found["max_abs_logit_difference"] <= 1e9
    assert math.isnan(found["kl"])
