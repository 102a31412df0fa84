from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.train.optimizer import build_optimizer, optimizer_arrays, restore_optimizer
from tests import tiny

SHAPES = {"block.weight": (5, 3), "block.bias": (3,), "input_layernorm.weight": (4,), "lora_a": (4, 2)}


def settings(optim="adamw", **changes):
    given = dict(
        optim=optim,
        max_grad_norm=0.0,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.99,
        adam_epsilon=1e-8,
        fp16_opt_level="O1",
    )
    return SimpleNamespace(**{**given, **changes})


def parameters(seed=0):
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        parameter = paddle.create_parameter(list(shape), "float32")
        parameter.set_value(random.standard_normal(shape).astype("float32"))
        found[name] = parameter
    return found


def step(optimizer, parameters, seed, zero=False):
    random = np.random.default_rng(seed)
    loss = paddle.zeros([])
    for name, parameter in parameters.items():
        loss = loss + (parameter * paddle.to_tensor(random.standard_normal(SHAPES[name]).astype("float32"))).sum()
    (loss * (0.0 if zero else 1.0)).backward()
    optimizer.step()
    optimizer.clear_grad()


def values(parameters):
    return {name: parameter.numpy().copy() for name, parameter in parameters.items()}


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path, optim):
    made = parameters()
    optimizer = build_optimizer(made, 0.01, settings(optim, weight_decay=0.1, max_grad_norm=1.0))
    for seed in range(3):
        step(optimizer, made, seed)
    write_arrays(tmp_path / "optimizer.safetensors", optimizer_arrays(optimizer, made))
    again = parameters(seed=99)
    for name, value in values(made).items():
        again[name].set_value(value)
    fresh = build_optimizer(again, 0.01, settings(optim, weight_decay=0.1, max_grad_norm=1.0))
    restore_optimizer(fresh, again, TensorFile(tmp_path / "optimizer.safetensors"))
    for seed in range(3, 6):
        step(optimizer, made, seed)
        step(fresh, again, seed)
    for name, value in values(made).items():
        np.testing.assert_array_equal(again[name].numpy(), value, name)
    before, after = optimizer_arrays(optimizer, made), optimizer_arrays(fresh, again)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)


@pytest.mark.parametrize(
    "optim, slots", [("adamw", {"moment1_0", "moment2_0"}), ("adafactor", {"exp_avg_sq_row_0", "exp_avg_sq_col_0"})]
)
def test_state_is_named_after_our_parameters(optim, slots):
    made = parameters()
    optimizer = build_optimizer(made, 0.01, settings(optim))
    step(optimizer, made, 0)
    names = optimizer_arrays(optimizer, made)
    assert {name.rsplit("/", 1)[0] for name in names} == set(SHAPES)
    assert slots <= {name.rsplit("/", 1)[1] for name in names if name.startswith("block.weight/")}


def test_adafactor_keeps_a_row_and_a_column_for_a_matrix():
    made = parameters()
    optimizer = build_optimizer(made, 0.01, settings("adafactor"))
    step(optimizer, made, 0)
    arrays = optimizer_arrays(optimizer, made)
    sizes = {name.rsplit("/", 1)[1]: array.shape for name, array in arrays.items() if name.startswith("block.weight/")}
    assert sizes == {"step_0": (1,), "exp_avg_sq_row_0": (5,), "exp_avg_sq_col_0": (3,)}


def test_state_of_a_parameter_that_is_not_trained_is_refused(tmp_path):
    write_arrays(tmp_path / "optimizer.safetensors", {"other.weight/moment1_0": np.zeros((2, 2), np.float32)})
    made = parameters()
    with pytest.raises(CheckpointError, match="state of other.weight, which this run doesn't train"):
        restore_optimizer(build_optimizer(made, 0.01, settings()), made, TensorFile(tmp_path / "optimizer.safetensors"))


def test_adamw_is_the_formula():
    made = parameters()
    w = {name: array.astype(np.float64) for name, array in values(made).items()}
    optimizer = build_optimizer(made, 0.01, settings(weight_decay=0.1))
    moments = {name: (np.zeros(shape), np.zeros(shape)) for name, shape in SHAPES.items()}
    for number in range(1, 5):
        random = np.random.default_rng(number)
        step(optimizer, made, number)
        for name, shape in SHAPES.items():
            g = random.standard_normal(shape)
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            moments[name] = m, v
            decay = 0.1 if name in ("block.weight", "lora_a") else 0.0
            w[name] = w[name] * (1 - 0.01 * decay) - 0.01 * (m / (1 - 0.9**number)) / (
                np.sqrt(v / (1 - 0.99**number)) + 1e-8
            )
    for name, value in values(made).items():
        np.testing.assert_allclose(value, w[name], rtol=1e-5, atol=1e-6, err_msg=name)


def adafactor_oracle(w, gradients, rate, decay):
    """Algorithm 4 of Shazeer and Stern 2018, with a given rate, in double precision."""
    row = column = full = 0.0
    for number, g in enumerate(gradients, start=1):
        beta, squared = 1 - number**-0.8, g * g + 1e-30
        if g.ndim == 2:
            row = beta * row + (1 - beta) * squared.sum(axis=1)
            column = beta * column + (1 - beta) * squared.sum(axis=0)
            second = np.outer(row, column) / row.sum()
        else:
            second = full = beta * full + (1 - beta) * squared
        update = g / np.sqrt(second)
        update = update / max(1.0, np.sqrt((update**2).mean()))
        w = w * (1 - decay * rate) - rate * update
    return w


def test_adafactor_is_the_paper():
    made = parameters()
    start = {name: array.astype(np.float64) for name, array in values(made).items()}
    optimizer = build_optimizer(made, 0.01, settings("adafactor"))
    gradients = {name: [] for name in SHAPES}
    for number in range(5):
        random = np.random.default_rng(number)
        for name, shape in SHAPES.items():
            gradients[name].append(random.standard_normal(shape))
        step(optimizer, made, number)
    for name, value in values(made).items():
        np.testing.assert_allclose(
            value, adafactor_oracle(start[name], gradients[name], 0.01, 0.0), rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_gradients_are_clipped_to_their_global_norm(optim):
    """Both optimizers divide by the gradient's size, so a clip shows in what they remember."""
    made = parameters()
    optimizer = build_optimizer(made, 0.01, settings(optim, max_grad_norm=0.5))
    step(optimizer, made, 0)
    arrays = optimizer_arrays(optimizer, made)
    if optim == "adamw":
        squares = sum(
            float((array.astype(np.float64) ** 2).sum()) for name, array in arrays.items() if "moment1" in name
        )
        assert np.sqrt(squares) / (1 - 0.9) == pytest.approx(0.5, rel=1e-4)
    else:
        sums = [a.astype(np.float64).sum() * SHAPES[n.split("/")[0]][-1] for n, a in arrays.items() if "_row" in n]
        sums += [a.astype(np.float64).sum() for n, a in arrays.items() if n.endswith("exp_avg_sq_0")]
        assert np.sqrt(sum(sums)) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_weight_decay_shrinks_matrices_and_leaves_biases_and_norms_alone(model_folder, family, optim):
    from paddle_sft.models.hub import unique_parameters

    model = tiny.load(model_folder(family), trainable=True)
    made = unique_parameters(model)
    before = values(made)
    optimizer = build_optimizer(made, 0.1, settings(optim, weight_decay=0.1))
    sum((0.0 * parameter).sum() for parameter in made.values()).backward()
    optimizer.step()
    for name, value in values(made).items():
        if value.ndim == 1:
            np.testing.assert_array_equal(value, before[name], name)
        else:
            np.testing.assert_allclose(value, 0.99 * before[name], rtol=1e-5, err_msg=name)
