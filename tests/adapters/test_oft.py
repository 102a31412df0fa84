from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.adapters.oft.config import OFTConfig
from paddle_sft.adapters.oft.layer import OFTUpdate
from paddle_sft.core.errors import ArgumentError


def turned(rows=12, size=0.1, **numbers):
    """An update whose blocks are turned a little, and its skew blocks, made one number after the other."""
    update = OFTUpdate(rows, 5, OFTConfig(oft_block_size=4, **numbers), "float32")
    vector = size * np.random.default_rng(0).standard_normal(update.oft_r.shape)
    update.oft_r.set_value(vector.astype("float32"))
    skew = np.zeros((rows // 4, 4, 4))
    for block in range(rows // 4):
        places = [(i, j) for i in range(4) for j in range(i + 1, 4)]
        for (i, j), number in zip(places, vector[block]):
            skew[block, i, j], skew[block, j, i] = number, -number
    return update, skew


def test_without_a_series_it_is_cayleys_transform_and_orthogonal():
    update, skew = turned(size=0.8, oft_neumann_terms=0)
    one, found = np.eye(4), update.rotation().numpy()
    np.testing.assert_allclose(found, (one - skew) @ np.linalg.inv(one + skew), atol=1e-5)
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.broadcast_to(one, found.shape), atol=1e-5)


@pytest.mark.parametrize("terms", [4, 5, 7])
def test_with_a_series_it_is_near_the_transform_the_nearer_the_more_terms(terms):
    update, skew = turned(oft_neumann_terms=terms)
    one, found = np.eye(4), update.rotation().numpy()
    slow = one + 2 * sum(np.linalg.matrix_power(skew, n) for n in range(1, terms - 1))
    slow = slow + np.linalg.matrix_power(skew, terms - 1)
    np.testing.assert_allclose(found, slow, atol=1e-6)
    exact = (one + skew) @ np.linalg.inv(one - skew)
    assert np.abs(found - exact).max() < 2 * np.linalg.norm(skew, ord=2, axis=(1, 2)).max() ** (terms - 1)


def test_the_inputs_are_turned_block_by_block():
    update, _ = turned()
    base, x = nn.Linear(12, 5), paddle.randn([2, 3, 12])
    matrix = np.zeros((12, 12))
    for number, block in enumerate(update.rotation().numpy()):
        matrix[4 * number : 4 * number + 4, 4 * number : 4 * number + 4] = block
    slow = x.numpy() @ matrix @ base.weight.numpy() + base.bias.numpy()
    np.testing.assert_allclose(update(x, base).numpy(), slow, atol=1e-5)


@pytest.mark.parametrize("rows, wanted, size", [(64, 32, 32), (48, 32, 24), (20, 32, 20), (66, 32, 33), (13, 4, 13)])
def test_a_block_size_that_does_not_divide_gives_way_to_the_nearest_that_does_and_the_plan_says_so(rows, wanted, size):
    config = OFTConfig(oft_block_size=wanted)
    assert config.block_size(rows) == size
    said = config.remarks({"a": (rows, 5)})
    assert bool(said) == (size != wanted) and (not said or f"{size} for inputs of {rows}" in said["block size"][0])


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ArgumentError, match="oft_block_size must be at least 2, got 1"):
        OFTConfig(oft_block_size=1)
    with pytest.raises(ArgumentError, match="oft_neumann_terms must be at least 4, or 0"):
        OFTConfig(oft_neumann_terms=3)
