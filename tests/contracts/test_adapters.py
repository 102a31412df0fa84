"""What every adapter method must hold, on every kind of base. A method listed in ADAPTERS is tested from then on."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.adapters.attach import attach, disabled, expected_trainable, facts_of
from paddle_sft.adapters.base import AdaptedLinear, adapted_linears
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.lora.layer import LoRADelta
from paddle_sft.adapters.state import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    adapter_arrays,
    adapter_tensors,
    load_adapter,
    read_adapter,
    save_adapter,
)
from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.models.linears import bias_of, features, find_linears, weight_matrix
from tests import tiny
from tests.contracts.adapting import IDLE, MERGED, METHODS, ON_LAYERS, PAIRS, ROUNDING, base_of, plain_base, put


@pytest.fixture
def adapt(model_folder):
    """(model, config) of a family with a method attached to all its linear layers, trained unless asked otherwise."""

    def make(method, family=None, trained=True, **changes):
        model = tiny.load(model_folder(family or plain_base(method), **changes), trainable=True)
        config = put(method, model)
        if trained:
            tiny.train_deltas(model)
        return model, config

    return make


@pytest.mark.parametrize("method, family", PAIRS)
def test_an_untrained_adapter_changes_nothing_and_a_trained_one_does(adapt, model_folder, some_ids, method, family):
    before = tiny.logits(tiny.load(model_folder(family)), some_ids)
    model, _ = adapt(method, family, trained=False)
    if all(part.starts_at_zero for part in (ADAPTERS[method].layer, ADAPTERS[method].model) if part):
        np.testing.assert_allclose(tiny.logits(model, some_ids), before, rtol=0, atol=ROUNDING[method])
    tiny.train_deltas(model)
    assert np.abs(tiny.logits(model, some_ids) - before).max() > 0.01


@pytest.mark.parametrize("method, family", PAIRS)
def test_training_moves_every_adapter_weight_and_not_one_bit_of_the_base(adapt, tmp_path, method, family):
    model, _ = adapt(method, family)
    base, deltas = base_of(model), adapter_arrays(model)
    tensors = adapter_tensors(model)
    idle = IDLE.get(method, "nothing")
    trained = {name for name in deltas if not tensors[name].stop_gradient and not name.startswith(idle)}
    trainer = tiny.make_trainer(
        model, tmp_path / "run", tiny.make_samples(8), max_steps=2, per_device_train_batch_size=4, learning_rate=0.01
    )
    trainer.train()
    for name, array in base_of(model).items():
        np.testing.assert_array_equal(array, base[name], name)
    after = adapter_arrays(model)
    for name in trained:
        assert (after[name] != deltas[name]).any(), f"{name} did not move"
    for name in deltas.keys() - trained:
        np.testing.assert_array_equal(after[name], deltas[name], name)


@pytest.mark.parametrize("method, family", PAIRS)
def test_as_many_weights_train_as_the_formula_says(adapt, model_folder, method, family):
    linears = find_linears(tiny.load(model_folder(family)))
    model, config = adapt(method, family)
    shapes = {path: features(linears[path]) for path in config.target_modules}
    trainable = sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)
    assert trainable == expected_trainable(method, config, shapes, facts_of(model)) > 0


def trained_update(method, base):
    """One update with every weight away from its start."""
    update = ADAPTERS[method].layer(*features(base), ADAPTERS[method].config(), "float32")
    update.start(base)
    random = np.random.default_rng(3)
    for parameter in update.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(parameter.numpy() + 0.3 * random.standard_normal(parameter.shape).astype("float32"))
    update.eval()
    return update


def check_merged_is_forward(method):
    """The contract between forward (what was trained) and merged_weight (what is merged)."""
    paddle.seed(1)
    base = nn.Linear(24, 16)
    base.bias.set_value(paddle.randn([16]))
    update = trained_update(method, base)
    x = paddle.randn([2, 3, 24])
    found, plain = update(x, base), base(x)
    assert float((found - plain).abs().max()) > 0.05  # a forward without the update would agree with the base
    weight, bias = update.merged_weight(weight_matrix(base)), update.merged_bias(bias_of(base))
    assert weight.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), (x @ weight + bias).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [method for method in MERGED if ADAPTERS[method].model is None])
def test_the_matrix_that_is_merged_is_what_forward_computes(method):
    check_merged_is_forward(method)


@pytest.mark.parametrize(
    "fault", [lambda self, x: x @ self.lora_a @ self.lora_b, lambda self, x: 0.0 * (x @ self.lora_a @ self.lora_b)]
)
def test_that_contract_sees_a_delta_without_the_scaling_or_without_the_update(monkeypatch, fault):
    """PaddleNLP's own layer tests pass with LoRA taken out of forward, because their B is zero."""
    monkeypatch.setattr(LoRADelta, "delta", fault)
    with pytest.raises(AssertionError):
        check_merged_is_forward("lora")


@pytest.mark.parametrize("method, family", [pair for pair in PAIRS if pair[0] in MERGED])
def test_an_adapted_layer_computes_what_its_merged_matrix_and_bias_do(adapt, method, family):
    model, _ = adapt(method, family)
    for path, layer in adapted_linears(model).items():
        x = paddle.randn([2, 5, features(layer.base)[0]])
        expected = x @ layer.update.merged_weight(weight_matrix(layer.base))
        bias = layer.update.merged_bias(bias_of(layer.base))
        expected = expected if bias is None else expected + bias
        np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("method, family", PAIRS)
def test_forward_changes_no_weight_in_either_mode(adapt, some_ids, method, family):
    """PaddleNLP initialises PiSSA inside forward: one evaluation overwrites a trained adapter."""
    model, _ = adapt(method, family)
    before = tiny.snapshot(model)
    for mode in (model.train, model.eval):
        mode()
        model(input_ids=paddle.to_tensor(some_ids))
    for name, array in tiny.snapshot(model).items():
        np.testing.assert_array_equal(array, before[name], name)


@pytest.mark.parametrize("method, family", PAIRS)
def test_a_saved_adapter_comes_back_bit_for_bit(adapt, model_folder, tmp_path, some_ids, method, family):
    model, config = adapt(method, family)
    save_adapter(tmp_path, model, method, config)
    again = tiny.load(model_folder(family), trainable=True)
    saved = load_adapter(again, tmp_path)
    assert (saved.method, saved.config) == (method, config)
    before, after = adapter_arrays(model), adapter_arrays(again)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), tiny.logits(model, some_ids))
    trained = {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert {name for name, p in again.named_parameters() if not p.stop_gradient} == trained


@pytest.mark.parametrize("method", MERGED)
def test_one_update_read_alone_is_the_one_in_the_model(adapt, tmp_path, method):
    model, config = adapt(method)
    save_adapter(tmp_path, model, method, config)
    saved = read_adapter(tmp_path)
    for path, layer in adapted_linears(model).items():
        weight = weight_matrix(layer.base)
        np.testing.assert_array_equal(
            saved.update(path).merged_weight(weight).numpy(), layer.update.merged_weight(weight).numpy()
        )


@pytest.mark.parametrize("method, family", PAIRS)
def test_a_disabled_adapter_is_the_base(adapt, model_folder, some_ids, method, family):
    model, _ = adapt(method, family)
    trained = tiny.logits(model, some_ids)
    with disabled(model):
        plain = tiny.logits(model, some_ids)
    np.testing.assert_array_equal(plain, tiny.logits(tiny.load(model_folder(family)), some_ids))
    np.testing.assert_array_equal(tiny.logits(model, some_ids), trained)


@pytest.mark.parametrize("method", ON_LAYERS)
def test_an_adapter_of_another_base_is_refused_with_both_shapes(adapt, model_folder, tmp_path, method):
    model, config = adapt(method, "bloom")
    save_adapter(tmp_path, model, method, config)
    wide = tiny.load(model_folder("bloom", hidden_size=64))
    before = list(wide.state_dict())
    with pytest.raises(
        ModelError, match=r"another base .*query_key_value is \[64, 192\], the adapter was trained on \[32, 96\]"
    ):
        load_adapter(wide, tmp_path)
    assert list(wide.state_dict()) == before  # nothing was wrapped
    with pytest.raises(ModelError, match=r"bloom.h.0.self_attention.query_key_value is not there.*and \d more"):
        load_adapter(tiny.load(model_folder("mistral")), tmp_path)


def hurt(folder, change):
    arrays = {
        name: np.array(TensorFile(folder / ADAPTER_WEIGHTS).read(name))
        for name in TensorFile(folder / ADAPTER_WEIGHTS).specs
    }
    change(arrays, sorted(arrays))
    write_arrays(folder / ADAPTER_WEIGHTS, arrays)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda arrays, names: arrays.pop(names[:4][-1]), "{3} is missing"),
        (lambda arrays, names: arrays.update(foreign=np.zeros(2, np.float32)), "foreign is not of this adapter"),
        (lambda arrays, names: arrays.update({names[:4][-1]: arrays[names[:4][-1]][..., 1:].copy()}), "{3} is .*needs"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_do_not_fit_their_config_are_never_passed_over(
    adapt, model_folder, tmp_path, method, change, words
):
    """PaddleNLP logs missing adapter weights and goes on with fresh ones."""
    model, config = adapt(method)
    save_adapter(tmp_path, model, method, config)
    names = sorted(adapter_arrays(model))
    hurt(tmp_path, change)
    with pytest.raises(ModelError, match=words.replace("{3}", names[:4][-1])):
        load_adapter(tiny.load(model_folder(plain_base(method))), tmp_path)


@pytest.mark.parametrize("method", ON_LAYERS)
def test_a_saved_config_is_complete_and_readable(adapt, tmp_path, method):
    model, config = adapt(method, "bloom")
    save_adapter(tmp_path, model, method, config)
    content = json.loads((tmp_path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    assert content["method"] == method and content["base"]["model_type"] == "bloom"
    assert content["base"]["linear_shapes"]["bloom.h.0.self_attention.query_key_value"] == [32, 96]
    assert sorted(path.name for path in tmp_path.iterdir()) == [ADAPTER_CONFIG, ADAPTER_WEIGHTS]


@pytest.mark.parametrize("method", ON_LAYERS)
def test_an_adapter_on_some_layers_leaves_the_others_alone(model_folder, tmp_path, some_ids, method):
    model = tiny.load(model_folder("bloom"))
    config = attach(model, method, ADAPTERS[method].config(), ["query_key_value", "1.mlp.dense_4h_to_h"])
    tiny.train_deltas(model)
    wrapped = [path for path, layer in model.named_sublayers() if isinstance(layer, AdaptedLinear)]
    assert wrapped == list(config.target_modules)
    assert wrapped == [f"bloom.h.{place}" for place in ("0.self_attention.query_key_value",
                       "1.self_attention.query_key_value", "1.mlp.dense_4h_to_h")]  # fmt: skip
    save_adapter(tmp_path, model, method, config)
    again = tiny.load(model_folder("bloom"))
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), tiny.logits(model, some_ids))


@pytest.mark.parametrize("method", ON_LAYERS)
def test_a_wrapped_layer_freezes_its_base(method):
    base = nn.Linear(4, 3)
    AdaptedLinear(base)
    assert base.weight.stop_gradient and base.bias.stop_gradient


def test_every_method_says_how_it_counts_its_weights():
    for method in ON_LAYERS:
        layer = ADAPTERS[method].layer(24, 16, ADAPTERS[method].config(), "float32")
        trained = [parameter for parameter in layer.parameters() if not parameter.stop_gradient]
        assert ADAPTERS[method].layer.count(24, 16, ADAPTERS[method].config()) == sum(p.size for p in trained)
