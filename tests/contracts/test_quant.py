"""Every adapter method on every quantised base computes what it computes on a base of the same weights as floats."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import disabled
from paddle_sft.adapters.base import adapted_linears, is_adapters
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import adapter_arrays, load_adapter, read_adapter, save_adapter
from paddle_sft.data.collate import collate
from paddle_sft.models.hub import load_model
from paddle_sft.models.linears import bias_of, find_linears, weight_matrix
from paddle_sft.models.quantised import quantised_linears, schemes_of
from paddle_sft.quant.choice import Choice
from paddle_sft.quant.levels import LEVELS
from paddle_sft.quant.linear import QuantisedLinear
from paddle_sft.stages.catalogue import STAGES
from tests import tiny
from tests.contracts.adapting import IDLE, MERGED, METHODS, ROUNDING, plain_base, put

CHOICES = {name: Choice(name, block_size=16 if name == "fp4" else None, double_quant=name == "nf4") for name in LEVELS}
BASES = ["qwen2", "bloom", "gpt2", "phi3", "mixtral", "gemma2"]
"""Biased and tied; fused qkv with biases; Conv1D in its checkpoints; fused qkv and gate-up; experts; four norms."""
PAIRS = [(method, algorithm) for method in METHODS for algorithm in sorted(LEVELS)]
ONE_EACH = [(method, sorted(LEVELS)[number % len(LEVELS)]) for number, method in enumerate(METHODS)]


def load(folder, algorithm):
    """A quantised model with all weights trainable that may be."""
    model = load_model(folder, "float32", choice=CHOICES[algorithm]).model
    for parameter in model.parameters():
        parameter.stop_gradient = False
    return model


@pytest.fixture
def adapt(model_folder):
    """(model, config) of a quantised base with a trained adapter on it."""

    def make(method, algorithm, family=None, trained=True):
        model = load(model_folder(family or plain_base(method)), algorithm)
        config = put(method, model)
        if trained:
            tiny.train_deltas(model)
        return model, config

    return make


def twin_of(model, folder):
    """A model of floats whose linear layers have the dequantised weights."""
    twin = tiny.load(folder, trainable=True)
    linears = find_linears(twin)
    for path, layer in quantised_linears(model).items():
        linears[path].weight.set_value(layer.weight_matrix())
    return twin


def gradients(model):
    """(loss, name -> gradient) of a batch."""
    model.train()
    loss = STAGES["sft"].loss(model, collate(tiny.make_samples(6), 3))
    loss.backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    return float(loss), found


@pytest.mark.parametrize("method, algorithm", PAIRS)
def test_logits_and_gradients_are_those_on_dequantised_floats(
    adapt, model_folder, tmp_path, some_ids, method, algorithm
):
    model, config = adapt(method, algorithm)
    save_adapter(tmp_path, model, method, config)
    twin = twin_of(model, model_folder(plain_base(method)))
    load_adapter(twin, tmp_path, allow_other_base=True)
    np.testing.assert_allclose(tiny.logits(model, some_ids), tiny.logits(twin, some_ids), rtol=1e-4, atol=2e-5)
    with disabled(model):
        plain = tiny.logits(model, some_ids)
    assert np.abs(tiny.logits(model, some_ids) - plain).max() > 0.01
    paddle.seed(4)
    (loss, found), (expected, theirs) = gradients(model), gradients(twin)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert found.keys() == theirs.keys() and any(is_adapters(name) for name in found)
    for name, gradient in theirs.items():
        scale = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("method, algorithm", ONE_EACH)
def test_training_moves_the_adapter_and_not_one_bit_of_the_base(adapt, tmp_path, method, algorithm):
    model, _ = adapt(method, algorithm)
    before = tiny.snapshot(model)
    trainer = tiny.make_trainer(
        model, tmp_path / "run", tiny.make_samples(8), max_steps=2, per_device_train_batch_size=4, learning_rate=0.01
    )
    trainer.train()
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    for name, array in tiny.snapshot(model).items():
        if name not in trained:
            np.testing.assert_array_equal(array, before[name], name)
        elif IDLE.get(method, "model.nothing").split(".", 1)[1] not in name:
            assert (array != before[name]).any(), f"{name} did not move"
    assert trained and all(is_adapters(name) for name in trained)


@pytest.mark.parametrize("method, algorithm", ONE_EACH)
def test_it_starts_at_the_base_and_comes_back_bit_for_bit(adapt, model_folder, tmp_path, some_ids, method, algorithm):
    again = load(model_folder(plain_base(method)), algorithm)
    plain = tiny.logits(again, some_ids)
    model, config = adapt(method, algorithm, trained=False)
    if all(part.starts_at_zero for part in (ADAPTERS[method].layer, ADAPTERS[method].model) if part):
        np.testing.assert_allclose(tiny.logits(model, some_ids), plain, rtol=0, atol=max(1e-5, ROUNDING[method]))
    tiny.train_deltas(model)
    save_adapter(tmp_path, model, method, config)
    assert dict(read_adapter(tmp_path).schemes) == schemes_of(model) != {}
    load_adapter(again, tmp_path)
    before, after = adapter_arrays(model), adapter_arrays(again)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), tiny.logits(model, some_ids))
    if method in MERGED:
        require_merged_is_computed(model)


def require_merged_is_computed(model):
    """Each layer computes what its merged matrix and bias do."""
    for path, layer in adapted_linears(model).items():
        assert isinstance(layer.base, QuantisedLinear)
        x = paddle.randn([3, layer.base.in_features])
        expected = x @ layer.update.merged_weight(weight_matrix(layer.base))
        bias = layer.update.merged_bias(bias_of(layer.base))
        expected = expected if bias is None else expected + bias
        np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("family", BASES)
def test_every_kind_of_linear_layer_is_quantised_and_trains(adapt, model_folder, tmp_path, some_ids, family):
    model, config = adapt("lora", "nf4", family)
    paths = list(find_linears(tiny.load(model_folder(family))))
    assert list(quantised_linears(model)) == paths == list(config.target_modules)
    save_adapter(tmp_path, model, "lora", config)
    twin = twin_of(model, model_folder(family))
    load_adapter(twin, tmp_path, allow_other_base=True)
    np.testing.assert_allclose(tiny.logits(model, some_ids), tiny.logits(twin, some_ids), rtol=1e-4, atol=2e-5)
    (loss, found), (expected, theirs) = gradients(model), gradients(twin)
    assert loss == pytest.approx(expected, rel=1e-5) and found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(gradient).max()))
