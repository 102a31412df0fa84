"""A run on a quantised base: as good as one on floats within a stated distance, the same however it is computed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.models.hub import load_model
from paddle_sft.quant.choice import Choice
from paddle_sft.train.noise import let_gradients_reach_the_first_layer
from tests import tiny

DISTANCE = {"weight_only_int8": 0.01, "nf4": 0.10, "fp4": 0.15, "weight_only_int4": 0.15}
"""Largest distance of the loss after 40 steps from that on floats, relative. The tiny model has 32 numbers in a row;
what a real one loses is in docs/quantisation.md."""
SAMPLES = tiny.make_samples(16, seed=3, longest=30)


@pytest.fixture
def train(model_folder, tmp_path):
    """(losses by step, adapter's weights) of a LoRA run on a base."""

    def make(algorithm=None, prepare=None, **keys):
        choice = Choice(algorithm, double_quant=algorithm == "nf4") if algorithm else None
        model = load_model(model_folder(), "float32", choice=choice).model
        paddle.seed(0)  # the adapter's first values are drawn now
        attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
        if prepare:
            prepare(model)
        keys = {"max_steps": 40, "learning_rate": 0.02, "logging_strategy": "steps", "logging_steps": 1, **keys}
        trainer = tiny.make_trainer(model, tmp_path / f"run{len(list(tmp_path.iterdir()))}", SAMPLES, **keys)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.progress.log_history if "loss" in entry]
        return losses, {name: array for name, array in tiny.snapshot(model).items() if is_adapters(name)}

    return make


def test_the_loss_comes_as_far_down_as_on_floats(train):
    plain, _ = train()
    last = np.mean(plain[-4:])
    assert last < 0.6 * plain[0]  # something was learned
    for algorithm, distance in DISTANCE.items():
        losses, _ = train(algorithm)
        assert abs(np.mean(losses[-4:]) - last) <= distance * last, algorithm


@pytest.mark.parametrize(
    "keys, prepare",
    [
        (dict(recompute=True), let_gradients_reach_the_first_layer),
        (dict(packing="best_fit", max_length=64), None),
        (dict(per_device_train_batch_size=2, gradient_accumulation_steps=4), None),
    ],
)
def test_recompute_packing_and_accumulation_change_nothing(train, keys, prepare):
    fixed = dict(max_steps=1, shuffle=False, max_grad_norm=0.0, learning_rate=0.01)
    if "packing" in keys:
        fixed.update(per_device_train_batch_size=16)
    losses, weights = train("nf4", **fixed)
    again, others = train("nf4", prepare, **{**fixed, **keys})
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    for name, array in weights.items():
        np.testing.assert_allclose(others[name], array, rtol=0, atol=2e-4, err_msg=name)
