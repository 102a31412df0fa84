"""Layers that read the same input are computed together, with the numbers of the layers alone, and only where nobody
listens to them."""

from __future__ import annotations

import shutil

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import adapted_linears
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.data.collate import collate_rows
from paddle_sft.models.fast import apply_linears, fused_linears
from paddle_sft.operators.build import replaced_operators
from paddle_sft.stages.catalogue import STAGES
from tests import tiny

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the operators with")

FAMILIES = ["llama", "qwen2", "mistral", "gemma", "qwen3"]


def loss_and_gradients(model, samples):
    """Of one packed row, and of every trained parameter."""
    loss = STAGES["sft"].loss(model, collate_rows([samples], 3))
    loss.backward()
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return float(loss), found


def require_same_without_operators(model, samples):
    loss, gradients = loss_and_gradients(model, samples)
    with replaced_operators(None):
        expected, by_layers = loss_and_gradients(model, samples)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == by_layers.keys() and gradients
    for name, gradient in by_layers.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-5 * max(np.abs(gradient).max(), 1e-3))


@pytest.mark.parametrize("num, longest", [(1, 4), (3, 7), (7, 40)])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_has_the_numbers_of_the_layers_alone(model_folder, family, num, longest):
    model = tiny.load(model_folder(family))
    attach(model, "lora", LoRAConfig(lora_rank=3, lora_alpha=5.0), None)
    tiny.train_deltas(model)
    require_same_without_operators(model, tiny.make_samples(num, seed=num, longest=longest))


def test_training_every_weight_has_the_numbers_of_the_layers_alone(model_folder):
    require_same_without_operators(
        tiny.load(model_folder("qwen2"), trainable=True), tiny.make_samples(5, seed=1, longest=30)
    )


@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj", "up_proj"], ["down_proj"]])
def test_some_layers_adapted_and_others_frozen(model_folder, targets):
    model = tiny.load(model_folder("llama"))
    attach(model, "lora", LoRAConfig(lora_rank=3, lora_alpha=5.0), targets)
    tiny.train_deltas(model)
    require_same_without_operators(model, tiny.make_samples(5, seed=2, longest=30))


def two_layers():
    paddle.seed(0)
    return nn.Linear(8, 6), nn.Linear(8, 4), paddle.randn([3, 8])


def test_layers_are_computed_together():
    first, second, x = two_layers()
    assert fused_linears(x, [first, second]) is not None


@pytest.mark.parametrize("change", ["type", "hook before", "hook behind", "another kind", "no operators"])
def test_layers_that_have_to_be_called_are_called(change):
    first, second, x = two_layers()
    if change == "type":
        first, second, x = first.to(dtype="float64"), second.to(dtype="float64"), x.astype("float64")
    if change == "hook before":
        second.register_forward_pre_hook(lambda layer, inputs: (2 * inputs[0],))
    if change == "hook behind":
        second.register_forward_post_hook(lambda layer, inputs, output: 2 * output)
    if change == "another kind":
        second = nn.Sequential(second, nn.ReLU())
    with replaced_operators(None) if change == "no operators" else paddle.no_grad():
        assert fused_linears(x, [first, second]) is None
        found = apply_linears(x, first, second)
        for one, layer in zip(found, (first, second)):
            np.testing.assert_array_equal(one.numpy(), layer(x).numpy())


def adapted(method="lora", **keys):
    """A model of one adapted layer."""
    paddle.seed(1)
    model = nn.Sequential(nn.Linear(8, 6))
    attach(model, method, ADAPTERS[method].config(lora_rank=2, lora_alpha=3.0, **keys), None)
    (layer,) = adapted_linears(model).values()
    layer.update.lora_b.set_value(paddle.randn(layer.update.lora_b.shape))
    return layer, paddle.randn([5, 8])


def test_dropout_is_drawn_while_training_and_left_out_else():
    layer, x = adapted(lora_dropout=0.5)
    layer.train()
    assert layer.linear_parts() is None
    layer.eval()
    assert layer.linear_parts() is not None
    np.testing.assert_allclose(layer(x).numpy(), (layer.base(x) + layer.update.delta(x)).numpy(), atol=1e-6)


def test_a_method_that_computes_otherwise_is_called():
    layer, x = adapted("dora")
    assert layer.linear_parts() is None


@pytest.mark.parametrize("part", ["base", "update", "layer"])
def test_a_hook_anywhere_in_an_adapted_layer_is_called(part):
    """Weights that are read while merging, and calibration, come through hooks."""
    layer, x = adapted()
    seen = []
    target = {"base": layer.base, "update": layer.update, "layer": layer}[part]
    target.register_forward_pre_hook(lambda one, inputs: seen.append(one))
    apply_linears(x, layer)
    assert seen == [target]


def test_an_adapter_that_is_switched_off_or_doubled():
    layer, x = adapted()
    layer.active = ()
    np.testing.assert_array_equal(layer(x).numpy(), apply_linears(x, layer.base)[0].numpy())
    layer.active = ("default", "default")
    expected = layer.base(x) + layer.update.delta(x) + layer.update.delta(x)
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), atol=1e-6)
