"""The frozen layer: computes with the weight that its codes mean, hands gradients on, and keeps no weight."""

from __future__ import annotations

import weakref

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from paddle_sft.core.errors import ModelError
from paddle_sft.quant import linear
from paddle_sft.quant.levels import LEVELS
from paddle_sft.quant.linear import QuantisedLinear
from paddle_sft.quant.scheme import Scheme

SCHEMES = [Scheme(name, 16, double_quant=name == "nf4") for name in sorted(LEVELS)]


def make(scheme, rows=33, columns=21, bias=True, seed=0):
    paddle.seed(seed)
    plain = nn.Linear(rows, columns)
    plain.bias.set_value(paddle.randn([columns]))
    return QuantisedLinear.of(paddle.randn([rows, columns]), scheme, plain.bias if bias else None)


def draw(*shape):
    x = paddle.randn(list(shape))
    x.stop_gradient = False
    return x


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.algorithm)
def test_output_and_gradient_are_those_of_the_dequantised_matrix(scheme, bias):
    layer, x = make(scheme, bias=bias), draw(2, 5, 33)
    weight = layer.weight_matrix().numpy().astype(np.float64)
    output = layer(x)
    expected = x.numpy() @ weight + (layer.bias.numpy() if bias else 0.0)
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.product(x).numpy(), x.numpy() @ weight, rtol=1e-5, atol=1e-5)
    gradient = paddle.randn(output.shape)
    output.backward(gradient)
    np.testing.assert_allclose(x.grad.numpy(), gradient.numpy() @ weight.T, rtol=1e-5, atol=1e-5)
    assert layer.dequantised_weight().shape == [21, 33] and layer.features() == (33, 21)


def test_nothing_of_it_trains_and_frozen_input_gets_no_gradient():
    layer = make(SCHEMES[0])
    assert [parameter.stop_gradient for parameter in layer.parameters()] == [True]  # the bias
    assert all(array.stop_gradient for array in layer.arrays.values())
    assert layer(paddle.randn([2, 33])).stop_gradient


def test_at_any_time_at_most_one_weight_is_there_as_floats(monkeypatch):
    """Through forward and backward of a stack of layers, with an adapter's product beside each."""
    alive, most = weakref.WeakSet(), []

    def watched(*given):
        weight = dequantise(*given)
        alive.add(weight)
        most.append(len(alive))
        return weight

    dequantise = linear.dequantise
    monkeypatch.setattr(linear, "dequantise", watched)
    layers = [make(SCHEMES[2], 24, 24, seed=seed) for seed in range(4)]
    factors = [draw(24, 24) for _ in layers]
    x = paddle.randn([3, 24])
    for layer, factor in zip(layers, factors):
        x = layer(x) + x @ factor
    x.sum().backward()
    assert len(most) == 4 + 3 and max(most) == 1  # the first layer's input needs no gradient
    assert len(alive) == 0


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.algorithm)
def test_recomputing_gives_the_same_gradients(scheme):
    layer, x = make(scheme, 32, 32), draw(2, 32)
    factor = draw(32, 32)

    def block(hidden):
        return paddle.tanh(layer(hidden) + hidden @ factor)

    found = []
    for function in (block, lambda hidden: recompute(block, hidden)):
        function(x).sum().backward()
        found.append((x.grad.numpy().copy(), factor.grad.numpy().copy()))
        x.clear_gradient(), factor.clear_gradient()
    for plain, again in zip(*found):
        np.testing.assert_array_equal(plain, again)


def test_casting_a_model_leaves_scales_and_codes_alone():
    """Paddle's `to` and amp.decorate cast floating buffers: other scales would be another model."""
    layer = make(Scheme("nf4", 16, True, 8))
    before = {name: array.numpy().copy() for name, array in layer.arrays.items()}
    model = nn.Sequential(layer, nn.Linear(21, 2))
    model.to(dtype="bfloat16")
    assert model[1].weight.dtype == paddle.bfloat16
    for name, array in layer.arrays.items():
        np.testing.assert_array_equal(array.numpy(), before[name], name)
    assert layer.compute_dtype() == "bfloat16"
    model.to(device="cpu")
    assert layer.compute_dtype() == "bfloat16" and layer.scale_scales.dtype == paddle.float32


def test_codes_are_in_the_state_dict_and_come_back():
    layer, other = make(SCHEMES[3]), make(SCHEMES[3], seed=1)
    assert set(layer.state_dict()) == {"codes", "scales", "bias"}
    other.set_state_dict(layer.state_dict())
    x = paddle.randn([2, 33])
    np.testing.assert_array_equal(other(x).numpy(), layer(x).numpy())


def test_arrays_of_another_size_and_weights_without_a_code_are_refused():
    arrays = make(SCHEMES[0]).arrays
    with pytest.raises(ValueError, match="codes is .*needs"):
        QuantisedLinear(arrays, SCHEMES[0], 33, 22, "float32")
    with pytest.raises(ModelError, match="^h.0.dense holds NaN"):
        QuantisedLinear.of(paddle.full([4, 4], float("nan")), SCHEMES[0], name="h.0.dense")
