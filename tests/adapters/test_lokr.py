from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.lokr.config import LoKrConfig, factors
from paddle_sft.core.errors import ArgumentError
from tests.adapters.slow import arrays, trained

CUTS = [
    dict(),  # (4 x 2) o (6 x 8), both whole
    dict(lokr_rank=2),  # the large factor is a product
    dict(lokr_rank=1, lokr_decompose_both=True),  # both are
    dict(lokr_rank=1, lokr_factor=3, lokr_alpha=5.0),
]


@pytest.mark.parametrize("numbers", CUTS)
def test_the_update_is_a_scaled_kronecker_product(numbers):
    update = trained("lokr", 24, 16, **numbers)
    found, config = arrays(update), LoKrConfig(**numbers)
    w1 = found["lokr_w1"] if "lokr_w1" in found else found["lokr_w1_b"] @ found["lokr_w1_a"]
    w2 = found["lokr_w2"] if "lokr_w2" in found else found["lokr_w2_b"] @ found["lokr_w2_a"]
    slow = np.zeros((24, 16))
    for i in range(24):
        for j in range(16):
            slow[i, j] = w1[i // len(w2), j // w2.shape[1]] * w2[i % len(w2), j % w2.shape[1]]
    slow *= config.lokr_alpha / config.lokr_rank
    np.testing.assert_allclose(update.delta(paddle.eye(24, dtype="float64")).numpy(), slow, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(update.delta_weight().numpy(), slow, rtol=1e-5, atol=1e-6)
    assert sum(array.size for array in found.values()) == update.count(24, 16, config)


def test_what_is_a_product_is_what_gains_from_it():
    shapes = [sorted(arrays(trained("lokr", 24, 16, **numbers))) for numbers in CUTS]
    assert shapes[0] == ["lokr_w1", "lokr_w2"]
    assert shapes[1] == ["lokr_w1", "lokr_w2_a", "lokr_w2_b"]
    assert shapes[2] == ["lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"]


@pytest.mark.parametrize(
    "size, factor, cut",
    [(48, -1, (6, 8)), (48, 4, (4, 12)), (48, 5, (4, 12)), (48, 20, (6, 8)), (7, -1, (1, 7)), (4096, -1, (64, 64))],
)
def test_a_size_is_cut_at_the_factor_or_near_the_root(size, factor, cut):
    assert factors(size, factor) == cut


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ArgumentError, match="lokr_rank must be at least 1, got 0"):
        LoKrConfig(lokr_rank=0)
    with pytest.raises(ArgumentError, match="lokr_factor must be at least 1, or -1 for the root, got 0"):
        LoKrConfig(lokr_factor=0)
