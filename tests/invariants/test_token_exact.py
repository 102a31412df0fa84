"""One optimizer step is the sum over its trained tokens divided by their number, however it is computed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import adapted_linears
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.core.records import Sample
from paddle_sft.data.collate import collate
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.train.noise import add_embedding_noise, let_gradients_reach_the_first_layer
from paddle_sft.train.trainer import SFTTrainer
from paddle_sft.train.weights import trainable_parameters
from tests import tiny

# Lengths and shares of trained tokens differ widely: a mean of means would be far off.
SAMPLES = tiny.make_samples(16, seed=3, longest=30)


@pytest.fixture
def run(model_folder, tmp_path, monkeypatch):
    """Train a tiny model; gives (loss per trained token of each step, gradients of each step, weights at the end)."""

    def make(family="llama", samples=SAMPLES, lora=False, prepare=None, **keys):
        model = tiny.load(model_folder(family), trainable=not lora)
        if lora:
            paddle.seed(7)  # the adapter's first values are drawn
            attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
            tiny.train_deltas(model)
        if prepare:
            prepare(model)
        keys = {
            "max_steps": 2,
            "shuffle": False,
            "max_grad_norm": 0.0,
            "logging_strategy": "steps",
            "logging_steps": 1,
            **keys,
        }
        trainer = tiny.make_trainer(model, tmp_path / f"run{len(list(tmp_path.iterdir()))}", samples, **keys)
        gradients, update = [], SFTTrainer._update

        def watch(self):
            gradients.append({name: p.grad.numpy().copy() for name, p in self.trainable.items() if p.grad is not None})
            update(self)

        monkeypatch.setattr(SFTTrainer, "_update", watch)
        trainer.train()
        monkeypatch.setattr(SFTTrainer, "_update", update)
        losses = [entry["loss"] for entry in trainer.progress.log_history if "loss" in entry]
        return losses, gradients, tiny.snapshot(model)

    return make


def assert_same(one, other, tolerance=1e-6):
    np.testing.assert_allclose(other[0], one[0], rtol=tolerance)
    assert len(one[1]) == len(other[1]) == 2
    for before, after in zip(one[1], other[1]):
        assert before.keys() == after.keys()
        for name, gradient in before.items():
            np.testing.assert_allclose(after[name], gradient, rtol=1e-4, atol=tolerance, err_msg=name)
    for name, weight in one[2].items():
        np.testing.assert_allclose(other[2][name], weight, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("rows, accumulation", [(1, 8), (2, 4), (4, 2)])
def test_accumulation_is_the_same_step_as_one_batch(run, lora, rows, accumulation):
    """PaddleNLP averages over micro-batches: 4.319 for one batch, 4.720 for the same data as two.

    AdamW divides by the gradient's size, which makes noise as large as a step; a larger epsilon keeps it small.
    """
    keys = dict(lora=lora, adam_epsilon=1e-3)
    one = run(per_device_train_batch_size=8, gradient_accumulation_steps=1, **keys)
    other = run(per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation, **keys)
    assert_same(one, other)


def exact_step(model, samples):
    """(loss per trained token, gradients) of one step, a sample at a time: no padding, no batch."""
    num_trained = sum(sample.num_trained for sample in samples)
    total = 0.0
    for sample in samples:
        loss = STAGES["sft"].loss(model, collate([sample], 3))
        (loss / num_trained).backward()
        total += float(loss)
    return total / num_trained, {name: p.grad.numpy() for name, p in trainable_parameters(model).items()}


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "mistral", "gemma", "bloom", "mixtral", "qwen2_moe", "gemma2", "opt", "gpt2"]
)
def test_a_padded_batch_is_its_samples_one_by_one(run, model_folder, family):
    losses, gradients, _ = run(family, per_device_train_batch_size=8)
    model = tiny.load(model_folder(family), trainable=True)
    loss, expected = exact_step(model, SAMPLES[:8])
    assert losses[0] == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[0][name], gradient, rtol=1e-3, atol=2e-6, err_msg=name)


def test_the_loss_is_that_of_the_logits_token_by_token(run, model_folder):
    losses, _, _ = run(per_device_train_batch_size=3, gradient_accumulation_steps=2)
    model = tiny.load(model_folder())
    total = sum(tiny.slow_loss(model, sample)[0] for sample in SAMPLES[:6])
    tokens = sum(sample.num_trained for sample in SAMPLES[:6])
    assert losses[0] == pytest.approx(total / tokens, rel=1e-6)


def test_a_micro_batch_with_hardly_a_trained_token_weighs_what_it_has(run):
    """One token beside hundreds: averaged per micro-batch it would have half the say."""
    lonely = Sample(np.arange(4, 34, dtype=np.int32), np.arange(30) == 29, "lonely")
    full = Sample(np.arange(34, 64, dtype=np.int32), np.arange(30) >= 1, "full")
    samples = [lonely, full] * 2
    one = run(samples=samples, per_device_train_batch_size=2, adam_epsilon=1e-3)
    other = run(samples=samples, per_device_train_batch_size=1, gradient_accumulation_steps=2, adam_epsilon=1e-3)
    assert_same(one, other)


def test_the_short_last_step_of_an_epoch_is_divided_by_its_own_tokens(run, model_folder):
    losses, gradients, _ = run(samples=SAMPLES[:5], per_device_train_batch_size=4, learning_rate=0.0)
    model = tiny.load(model_folder(), trainable=True)
    loss, expected = exact_step(model, SAMPLES[4:5])
    assert losses[1] == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "gemma", "bloom", "mistral", "qwen2_moe", "gemma2", "opt", "gpt2"]
)
@pytest.mark.parametrize("lora", [False, True])
def test_recomputing_changes_no_number(run, family, lora):
    keys = dict(family=family, lora=lora, per_device_train_batch_size=4)
    plain = run(**keys)
    again = run(prepare=let_gradients_reach_the_first_layer, recompute=True, **keys)
    assert again[0] == plain[0]
    for before, after in zip(plain[1], again[1]):
        assert before.keys() == after.keys()
        for name, gradient in before.items():
            np.testing.assert_array_equal(after[name], gradient, name)
    for name, weight in plain[2].items():
        np.testing.assert_array_equal(again[2][name], weight, name)


@pytest.mark.parametrize("lora", [False, True])
def test_recomputing_really_recomputes_every_layer(run, lora):
    """PaddleNLP leaves out a layer whose input needs no gradient: the first one, behind a frozen embedding."""
    calls = {}

    def count(name):
        def prepare(model):
            let_gradients_reach_the_first_layer(model)
            for number, layer in enumerate(model.llama.layers):
                key = (name, number)
                calls[key] = 0
                layer.mlp.register_forward_post_hook(lambda *_, key=key: calls.__setitem__(key, calls[key] + 1))

        return prepare

    run(lora=lora, prepare=count("plain"), per_device_train_batch_size=4)
    run(lora=lora, prepare=count("recompute"), per_device_train_batch_size=4, recompute=True)
    for number in (0, 1):
        assert calls["recompute", number] == 2 * calls["plain", number] > 0


def test_behind_a_frozen_embedding_recomputed_lora_gradients_reach_the_first_layer(run):
    _, gradients, _ = run(
        lora=True, recompute=True, prepare=let_gradients_reach_the_first_layer, per_device_train_batch_size=4
    )
    first = [name for name in gradients[0] if ".layers.0." in name]
    assert len(first) == 14
    for name in first:
        assert np.abs(gradients[0][name]).max() > 0, name


def test_noise_changes_training_and_is_the_same_again_for_the_same_seed(run):
    def prepare(model):
        add_embedding_noise(model, 5.0)

    plain, noisy, again = run(), run(prepare=prepare), run(prepare=prepare)
    assert noisy[0] != plain[0] and noisy[0] == again[0]
    for name, weight in noisy[2].items():
        np.testing.assert_array_equal(again[2][name], weight)


def test_noise_and_recomputing_together_draw_the_noise_once(run):
    def prepare(model):
        add_embedding_noise(model, 5.0)
        let_gradients_reach_the_first_layer(model)

    assert run(prepare=prepare, lora=True)[0] == run(prepare=prepare, lora=True, recompute=True)[0]


def test_dropout_draws_anew_in_every_forward_pass(model_folder, tmp_path, monkeypatch):
    model = tiny.load(model_folder())
    attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0, lora_dropout=0.5), None)
    tiny.train_deltas(model, size=0.5)
    same = [Sample(SAMPLES[0].ids, SAMPLES[0].trained, "same")] * 4
    trainer = tiny.make_trainer(
        model,
        tmp_path / "run",
        same,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=0.0,
    )
    seen, real = [], type(trainer.stage).loss

    def watch(stage, model, batch):
        loss = real(stage, model, batch)
        seen.append(float(loss))
        return loss

    monkeypatch.setattr(type(trainer.stage), "loss", watch)
    trainer.train()
    assert len(set(seen)) == len(seen) == 4


def test_only_layers_that_are_adapted_train(model_folder):
    model = tiny.load(model_folder())
    attach(model, "lora", LoRAConfig(), ["q_proj"])
    expected = {f"{path}.updates.default.{name}" for path in adapted_linears(model) for name in ("lora_a", "lora_b")}
    assert set(trainable_parameters(model)) == expected
    assert all(isinstance(parameter, paddle.Tensor) for parameter in trainable_parameters(model).values())
