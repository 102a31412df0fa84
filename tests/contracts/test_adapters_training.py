"""What every adapter method must hold while it is trained: it learns, and goes with what else a run may ask for."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.state import adapter_arrays
from paddle_sft.data.collate import collate, collate_rows
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.train.noise import add_embedding_noise, let_gradients_reach_the_first_layer
from paddle_sft.train.weights import AdapterWeights, trainable_parameters
from tests import tiny
from tests.contracts.adapting import METHODS, base_of, plain_base, put

SAMPLES = tiny.make_samples(8, seed=3)


@pytest.fixture
def adapt(model_folder):
    def make(method, trained=True):
        model = tiny.load(model_folder(plain_base(method)))
        paddle.seed(5)
        config = put(method, model)
        if trained:
            tiny.train_deltas(model)
        return model, config

    return make


@pytest.fixture
def train(tmp_path):
    """Train a model and give the loss per trained token of each step."""

    def run(model, method, config, name="run", resume_from=None, **keys):
        given = dict(per_device_train_batch_size=4, logging_strategy="steps", logging_steps=1, shuffle=False)
        weights = AdapterWeights(model, method, config, tmp_path)
        trainer = tiny.make_trainer(model, tmp_path / name, SAMPLES, weights=weights, **{**given, **keys})
        trainer.train(resume_from)
        return [entry["loss"] for entry in trainer.progress.log_history if "loss" in entry]

    return run


def loss_and_gradients(model, batch):
    """(loss sum, gradient of every trained weight) of one batch."""
    model.train()
    paddle.seed(9)
    loss = STAGES["sft"].loss(model, batch)
    loss.backward()
    gradients = {name: p.grad.numpy().copy() for name, p in trainable_parameters(model).items() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(set_to_zero=False)
    return float(loss), gradients


@pytest.mark.parametrize("method", METHODS)
def test_it_learns(adapt, train, method):
    """Eight samples by heart: the loss of the last steps is clearly below that of the first."""
    model, config = adapt(method, trained=False)
    losses = train(model, method, config, max_steps=24, learning_rate=0.02, lr_scheduler_type="constant")
    assert np.mean(losses[-2:]) < 0.97 * np.mean(losses[:2])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_interrupted_ends_with_the_same_bits(adapt, train, tmp_path, method):
    keys = dict(max_steps=4, learning_rate=0.01, weight_decay=0.1, save_strategy="steps", save_steps=2)
    model, config = adapt(method, trained=False)
    losses = train(model, method, config, **keys)
    again, _ = adapt(method, trained=True)  # other weights than at the start: all must come from the checkpoint
    resumed = train(again, method, config, "again", resume_from=tmp_path / "run" / "checkpoint-2", **keys)
    assert resumed == losses
    after = adapter_arrays(again)
    for name, array in adapter_arrays(model).items():
        np.testing.assert_array_equal(after[name], array, name)


@pytest.mark.parametrize("method", METHODS)
def test_packed_samples_give_the_loss_and_the_gradients_of_each_alone(adapt, method):
    model, _ = adapt(method)
    packed, by_packed = loss_and_gradients(model, collate_rows([SAMPLES[:3], SAMPLES[3:4]], 3))
    alone, by_alone = loss_and_gradients(model, collate(SAMPLES[:4], 3))
    assert packed == pytest.approx(alone, rel=1e-5)
    assert by_packed.keys() == by_alone.keys() and by_packed
    for name, gradient in by_alone.items():
        np.testing.assert_allclose(by_packed[name], gradient, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_recomputing_changes_no_gradient_and_noise_changes_the_loss(adapt, method):
    model, _ = adapt(method)
    let_gradients_reach_the_first_layer(model)
    add_embedding_noise(model, 5.0)
    batch, base = collate(SAMPLES[:4], 3), base_of(model)
    noisy, gradients = loss_and_gradients(model, batch)
    model.recompute_enable()
    again, recomputed = loss_and_gradients(model, batch)
    assert again == noisy and recomputed.keys() == gradients.keys() == trainable_parameters(model).keys()
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(recomputed[name], gradient, name)
    model.eval()
    with paddle.no_grad():
        assert float(STAGES["sft"].loss(model, batch)) != noisy
    for name, array in base_of(model).items():
        np.testing.assert_array_equal(array, base[name], name)
