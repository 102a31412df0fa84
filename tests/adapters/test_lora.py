from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.lora.layer import LoRADelta
from paddle_sft.core.errors import ArgumentError


def trained(config, dtype="float64", rows=6, columns=5):
    """A layer with random A and B, and both in double precision."""
    layer = LoRADelta(rows, columns, config, dtype)
    random = np.random.default_rng(0)
    a, b = random.standard_normal((rows, config.lora_rank)), random.standard_normal((config.lora_rank, columns))
    layer.lora_a.set_value(a.astype(dtype))
    layer.lora_b.set_value(b.astype(dtype))
    return layer, a, b


@pytest.mark.parametrize("rank, alpha", [(1, 1.0), (4, 8.0), (4, 3.0), (3, 0.5)])
def test_the_update_is_alpha_over_rank_times_a_times_b(rank, alpha):
    """PaddleNLP has no lora_alpha to set."""
    layer, a, b = trained(LoRAConfig(lora_rank=rank, lora_alpha=alpha))
    expected = alpha / rank * (a @ b)
    np.testing.assert_allclose(layer.delta(paddle.eye(6, dtype="float64")).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(layer.delta_weight().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_half_precision_update_is_multiplied_in_float32():
    a, b = np.full((2, 1), 1 + 2**-7, np.float32), np.full((1, 3), 1 + 2**-7, np.float32)
    layer = LoRADelta(2, 3, LoRAConfig(lora_rank=1, lora_alpha=1.0), "bfloat16")
    layer.lora_a.set_value(paddle.to_tensor(a).astype("bfloat16"))
    layer.lora_b.set_value(paddle.to_tensor(b).astype("bfloat16"))
    np.testing.assert_array_equal(
        layer.delta_weight().numpy(), a @ b
    )  # 1 + 2**-6 + 2**-14: bfloat16 would lose the end


def test_b_starts_at_zero_and_a_fills_its_bound():
    layer = LoRADelta(64, 8, LoRAConfig(lora_rank=32), "float32")
    assert not layer.lora_b.numpy().any()
    largest = np.abs(layer.lora_a.numpy()).max()
    assert 0.95 / 8 < largest <= 1 / 8  # 1 / sqrt(64)


def test_two_layers_do_not_start_alike():
    one, other = (LoRADelta(8, 8, LoRAConfig(), "float32").lora_a.numpy() for _ in range(2))
    assert (one != other).all()


def test_dropout_zeroes_inputs_and_scales_the_rest_in_training_only():
    layer, a, b = trained(LoRAConfig(lora_rank=4, lora_alpha=4.0, lora_dropout=0.25))
    x = paddle.ones([4000, 6], dtype="float64")
    layer.train()
    paddle.seed(0)
    # undo the product: which inputs went in
    seen = layer.delta(x).numpy() @ np.linalg.pinv(a @ b)
    layer.eval()
    np.testing.assert_allclose(layer.delta(x).numpy(), np.ones((4000, 6)) @ (a @ b), rtol=1e-10)
    projected = np.ones((1, 6)) @ (a @ b) @ np.linalg.pinv(a @ b)
    assert np.abs(seen - projected).max() > 0.1
    np.testing.assert_allclose(seen.mean(axis=0), projected[0], atol=0.05)  # unbiased


@pytest.mark.parametrize("dropout", [0.25, 0.5])
def test_dropout_keeps_the_share_it_says(dropout):
    layer = LoRADelta(5, 5, LoRAConfig(lora_rank=5, lora_alpha=5.0, lora_dropout=dropout), "float64")
    layer.lora_a.set_value(np.eye(5))
    layer.lora_b.set_value(np.eye(5))
    layer.train()
    paddle.seed(1)
    seen = layer.delta(paddle.ones([4000, 5], dtype="float64")).numpy()
    assert set(np.unique(seen.round(9))) == {0.0, round(1 / (1 - dropout), 9)}
    assert abs((seen == 0).mean() - dropout) < 0.02


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(lora_rank=0), "lora_rank must be at least 1, got 0"),
        (dict(lora_rank=-3), "lora_rank must be at least 1, got -3"),
        (dict(lora_dropout=1.0), "lora_dropout must be at least 0 and below 1, got 1.0"),
        (dict(lora_dropout=-0.1), "lora_dropout must be"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(given, words):
    with pytest.raises(ArgumentError, match=words):
        LoRAConfig(**given)
