from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.adalora.config import AdaLoRAConfig
from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import adapted_linears
from paddle_sft.adapters.state import adapter_arrays
from paddle_sft.core.errors import ArgumentError
from paddle_sft.train.checkpoint import list_checkpoints
from paddle_sft.train.weights import MEMORY, AdapterWeights
from tests import tiny
from tests.adapters.slow import arrays, trained

CONFIG = AdaLoRAConfig(adalora_init_r=4, adalora_target_r=2, adalora_tinit=1, adalora_tfinal=3, adalora_delta_t=2)
SAMPLES = tiny.make_samples(12, seed=1)


@pytest.fixture
def run(model_folder, tmp_path):
    """A trainer of AdaLoRA on a tiny llama, 10 steps; the same start each time."""

    def make(name, config=CONFIG, targets=None, **keys):
        paddle.seed(0)
        folder = model_folder()
        model = tiny.load(folder)
        config = attach(model, "adalora", config, targets)
        weights = AdapterWeights(model, "adalora", config, folder)
        keys = dict(max_steps=10, per_device_train_batch_size=3, learning_rate=0.02, **keys)
        return tiny.make_trainer(model, tmp_path / name, SAMPLES, (), weights, **keys)

    return make


def values(trainer):
    """[layers, init_r]: every singular value."""
    return np.stack([layer.update.lora_e.numpy() for layer in adapted_linears(trainer.model).values()])


def test_the_update_is_a_scaled_singular_value_decomposition():
    update = trained("adalora", 6, 5, adalora_init_r=3, adalora_target_r=2, adalora_alpha=7.0)
    one = arrays(update)
    slow = 7.0 / 3 * one["lora_a"] @ np.diag(one["lora_e"]) @ one["lora_b"]
    np.testing.assert_allclose(update.delta(paddle.eye(6, dtype="float64")).numpy(), slow, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(update.delta_weight().numpy(), slow, rtol=1e-5, atol=1e-6)


def test_the_budget_falls_with_the_cube_of_what_is_left():
    config = AdaLoRAConfig(adalora_init_r=12, adalora_target_r=4, adalora_tinit=10, adalora_tfinal=20)
    assert [config.budget(step, 70) for step in (0, 10, 30, 50, 70)] == [12, 12, 4 + 8 * 0.5**3, 4, 4]
    assert AdaLoRAConfig().phases(200) == (20, 140)  # a tenth before, three tenths after


def test_a_schedule_without_a_step_to_cut_in_stops_the_run_before_it_begins(run):
    trainer = run("run", AdaLoRAConfig(adalora_tinit=5, adalora_tfinal=5))
    with pytest.raises(ArgumentError, match="adalora_tinit 5 and adalora_tfinal 5 leave none of 10 steps to cut"):
        trainer.train()
    assert trainer.progress.global_step == 0


def test_what_is_left_at_the_end_is_the_target_over_all_layers_and_not_in_each(run):
    trainer = run("run")
    trainer.train()
    left = values(trainer) != 0
    assert left.sum() == 2 * len(left)
    assert len(set(left.sum(axis=1))) > 1  # some layers were worth more than others


def slow_cut(trainer, step):
    """Which singular values stay at a cut, by the paper's equations in double precision, from noted gradients."""
    scores = []
    for layer in adapted_linears(trainer.model).values():
        of_name = {}
        for name in ("lora_a", "lora_e", "lora_b"):
            mean = away = 0.0
            for weight, gradient in layer.noted[name]:
                sensitivity = np.abs(weight * gradient)
                mean = 0.85 * mean + 0.15 * sensitivity
                away = 0.85 * away + 0.15 * np.abs(sensitivity - mean)
            of_name[name] = mean * away
        scores.append(of_name["lora_e"] + of_name["lora_a"].mean(axis=0) + of_name["lora_b"].mean(axis=1))
    scores = np.stack(scores)
    num_left = int(CONFIG.budget(step, 10) * len(scores))
    return scores >= np.sort(scores, axis=None)[scores.size - num_left]


def test_what_is_cut_is_least_important_by_the_equations(run):
    trainer = run("run")
    layers = adapted_linears(trainer.model).values()
    for layer in layers:
        layer.noted = {name: [] for name in ("lora_a", "lora_e", "lora_b")}
    after_update, kept = trainer.weights.after_update, {}

    def note(step, num_steps):
        for layer in layers:
            for name, pairs in layer.noted.items():
                parameter = getattr(layer.update, name)
                pairs.append([one.numpy().astype(np.float64) for one in (parameter, parameter.grad)])
        after_update(step, num_steps)
        if step + 1 in (2, 4, 6):
            kept[step + 1] = (values(trainer) != 0, slow_cut(trainer, step + 1))

    trainer.weights.after_update = note
    trainer.train()
    for step, (ours, slow) in kept.items():
        np.testing.assert_array_equal(ours, slow, f"step {step}")
    assert kept[2][0].sum() > kept[4][0].sum() > kept[6][0].sum()


def test_the_penalty_is_that_of_the_distance_from_orthogonal(run):
    """Its gradient, which is added by hand, against Paddle's own differentiation of the formula."""
    trainer = run("run", targets=["q_proj"])
    updates = [layer.update for layer in adapted_linears(trainer.model).values()]
    matrices = [matrix for update in updates for matrix in (update.lora_a, update.lora_b)]

    def away(matrix):
        square = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
        return (square - paddle.eye(4)).square().sum().sqrt()

    slow = paddle.grad(0.5 * sum(away(matrix) for matrix in matrices) / len(matrices), matrices)
    for matrix in matrices:
        (matrix.sum() * 0.0).backward()
    trainer.weights.before_update(0, 10)
    for matrix, expected in zip(matrices, slow):
        np.testing.assert_allclose(matrix.grad.numpy(), expected.numpy(), atol=1e-6)


def test_it_can_be_restored_in_every_phase_bit_for_bit(run, tmp_path):
    whole = run("whole", save_strategy="steps", save_steps=1)
    whole.train()
    checkpoints = list_checkpoints(tmp_path / "whole")
    assert (checkpoints[3] / MEMORY).is_file()
    for number in (3, 8):  # between two cuts; after the last
        again = run(f"again{number}")
        again.train(resume_from=checkpoints[number - 1])
        expected = adapter_arrays(whole.model)
        for name, array in adapter_arrays(again.model).items():
            np.testing.assert_array_equal(array, expected[name], f"{name} from step {number}")


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ArgumentError, match="adalora_target_r must be at least 1 and at most adalora_init_r 4, got 8"):
        AdaLoRAConfig(adalora_init_r=4)
