from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import adapted_linears, model_updates
from paddle_sft.adapters.state import adapter_arrays
from paddle_sft.adapters.vera.config import VeRAConfig
from paddle_sft.core.errors import ArgumentError
from tests import tiny


@pytest.fixture
def adapted(model_folder):
    """(model, config) with VeRA on layers of four shapes, trained."""
    model = tiny.load(model_folder())
    config = attach(model, "vera", VeRAConfig(vera_rank=5), None)
    tiny.train_deltas(model)
    return model, config


def test_every_layer_computes_with_its_part_of_one_pair(adapted):
    model, config = adapted
    assert (config.largest_in, config.largest_out) == (48, 48)
    shared = model_updates(model)["default"]
    a, b = shared.vera_a.numpy(), shared.vera_b.numpy()
    for path, layer in adapted_linears(model).items():
        rows, columns = layer.base.weight.shape
        d, scale = layer.update.lambda_d.numpy(), layer.update.lambda_b.numpy()
        expected = (a[:rows] * d) @ b[:, :columns] * scale
        np.testing.assert_allclose(layer.update.delta_weight().numpy(), expected, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(layer.update.delta(paddle.eye(rows)).numpy(), expected, atol=1e-6, err_msg=path)


def test_the_pair_is_in_memory_once_saved_once_and_never_trained(adapted):
    model, _ = adapted
    shared = model_updates(model)["default"]
    assert all(layer.update.shared[0] is shared for layer in adapted_linears(model).values())
    names = [name for name, _ in model.named_parameters() if name.endswith(("vera_a", "vera_b"))]
    assert names == ["model_updates.default.vera_a", "model_updates.default.vera_b"]
    assert [name for name in adapter_arrays(model) if "vera" in name] == ["model.vera_a", "model.vera_b"]
    assert shared.vera_a.stop_gradient and shared.vera_b.stop_gradient


def test_the_pair_fills_its_bounds_and_follows_the_seed(model_folder):
    def pair(seed):
        paddle.seed(seed)
        model = tiny.load(model_folder())
        attach(model, "vera", VeRAConfig(vera_rank=64), None)
        return [array.numpy() for array in model_updates(model)["default"].state_dict().values()]

    a, b = pair(1)
    assert 0.97 * np.sqrt(6 / 48) < np.abs(a).max() <= np.sqrt(6 / 48)
    assert 0.97 * np.sqrt(6 / 64) < np.abs(b).max() <= np.sqrt(6 / 64)
    np.testing.assert_array_equal(pair(1)[0], a)
    assert (pair(2)[0] != a).any()


def test_a_start_that_could_not_move_is_refused():
    with pytest.raises(ArgumentError, match="vera_d_initial must not be 0"):
        VeRAConfig(vera_d_initial=0.0)
    with pytest.raises(ArgumentError, match="vera_rank must be at least 1, got 0"):
        VeRAConfig(vera_rank=0)
