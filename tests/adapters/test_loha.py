from __future__ import annotations

import numpy as np
import paddle
import pytest

from tests.adapters.slow import arrays, trained


@pytest.mark.parametrize("rank, alpha", [(1, 2.0), (3, 6.0), (5, 1.0)])
def test_the_update_is_a_scaled_product_number_by_number(rank, alpha):
    update = trained("loha", 7, 5, loha_rank=rank, loha_alpha=alpha)
    one = arrays(update)
    slow = alpha / rank * (one["hada_w1_b"] @ one["hada_w1_a"]) * (one["hada_w2_b"] @ one["hada_w2_a"])
    np.testing.assert_allclose(update.delta(paddle.eye(7, dtype="float64")).numpy(), slow, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(update.delta_weight().numpy(), slow, rtol=1e-5, atol=1e-6)


def test_its_rank_goes_beyond_that_of_its_factors():
    matrix = trained("loha", 12, 12, loha_rank=3).delta_weight().numpy()
    assert np.linalg.matrix_rank(matrix, tol=1e-6) == 9
