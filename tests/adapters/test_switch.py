"""Several adapters on one base: loaded by name, switched, added, taken out; and which base is theirs."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import activate, attach, disabled
from paddle_sft.adapters.base import adapted_linears
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.fingerprint import fingerprint_of, is_same
from paddle_sft.adapters.saved import ADAPTER_CONFIG
from paddle_sft.adapters.state import load_adapter, read_adapter, save_adapter
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.export.merge import MergeJob, merge
from paddle_sft.export.quantise import QuantiseJob, quantise_folder
from paddle_sft.models.hub import load_model
from paddle_sft.quant.choice import Choice
from tests import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """Two LoRA adapters on some of the same layers."""
    found = {}
    for seed, (name, targets) in enumerate({"one": ["q_proj", "up_proj"], "two": ["q_proj", "v_proj"]}.items()):
        model = tiny.load(base)
        config = attach(model, "lora", ADAPTERS["lora"].config(lora_rank=2 + seed), targets)
        tiny.train_deltas(model, seed)
        found[name] = tmp_path_factory.mktemp(name)
        save_adapter(found[name], model, "lora", config)
    return found


@pytest.fixture()
def both(base, folders):
    model = tiny.load(base)
    for name, folder in folders.items():
        load_adapter(model, folder, name)
    return model


def alone(base, folder, ids):
    model = tiny.load(base)
    load_adapter(model, folder)
    return tiny.logits(model, ids)


def test_each_of_two_adapters_on_a_base_computes_what_it_does_alone(base, folders, both, some_ids):
    for name in ("one", "two", "one"):
        activate(both, name)
        np.testing.assert_array_equal(tiny.logits(both, some_ids), alone(base, folders[name], some_ids))
    activate(both)
    np.testing.assert_array_equal(tiny.logits(both, some_ids), tiny.logits(tiny.load(base), some_ids))


def test_two_active_adapters_are_added(both, base):
    activate(both, "one", "two")
    layer = adapted_linears(both)["llama.layers.0.self_attn.q_proj"]
    x = paddle.randn([2, 32])
    added = sum(update.delta_weight() for update in layer.updates.values())
    np.testing.assert_allclose(layer(x).numpy(), (x @ (layer.base.weight + added)).numpy(), rtol=1e-4, atol=1e-5)


def test_a_method_that_does_not_add_is_active_alone(base, folders):
    model = tiny.load(base)
    attach(model, "dora", ADAPTERS["dora"].config(), ["q_proj"], "dora")
    load_adapter(model, folders["one"], "one")
    with pytest.raises(ArgumentError, match="one and dora can't be active at once: dora"):
        activate(model, "one", "dora")
    activate(model, "dora")


def test_disabled_gives_back_the_same_choice(both, base, some_ids):
    activate(both, "two")
    before = tiny.logits(both, some_ids)
    with disabled(both):
        np.testing.assert_array_equal(tiny.logits(both, some_ids), tiny.logits(tiny.load(base), some_ids))
    np.testing.assert_array_equal(tiny.logits(both, some_ids), before)


def test_an_adapter_knows_its_base_by_the_weights(base, folders, tmp_path):
    other = tiny.make_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="trained on another base .*weights are not; .*allow_other_base"):
        load_adapter(tiny.load(other), folders["one"])
    load_adapter(tiny.load(other), folders["one"], allow_other_base=True)


def test_one_changed_matrix_makes_another_base(base, folders):
    model = tiny.load(base)
    weight = model.llama.layers[1].mlp.up_proj.weight
    weight.set_value(weight * 1.02)
    with pytest.raises(ModelError, match="another base"):
        load_adapter(model, folders["one"])


def test_the_type_that_a_base_is_loaded_in_makes_no_other_base(base):
    found = {dtype: fingerprint_of(load_model(base, dtype).model) for dtype in ("float32", "bfloat16", "float16")}
    assert found["float32"] == found["bfloat16"]
    assert is_same(found["float32"], found["float16"])


def test_a_folder_without_a_fingerprint_loads_as_before(base, folders, tmp_path):
    model = tiny.load(base)
    load_adapter(model, folders["one"])
    save_adapter(tmp_path, model, "lora", read_adapter(folders["one"]).config)
    content = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    del content["base"]["fingerprint"]
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(content))
    load_adapter(tiny.load(base), tmp_path)


QUANTISED = Choice("nf4", block_size=16)


def test_an_adapter_of_a_quantised_base_knows_it_too(base, tmp_path):
    """By the floats that the base was made of, and where only codes are left, by these."""
    other = tiny.make_model(tmp_path / "other", seed=1)
    codes = {}
    for name, folder in (("codes", base), ("other_codes", other)):
        quantise_folder(QuantiseJob(folder, tmp_path / name, QUANTISED))
        codes[name] = load_model(tmp_path / name, "float32").model
    loaded = load_model(base, "float32", choice=QUANTISED).model
    assert fingerprint_of(loaded).floats == fingerprint_of(tiny.load(base)).floats != ""
    assert fingerprint_of(loaded).codes == fingerprint_of(codes["codes"]).codes != ""
    assert fingerprint_of(codes["codes"]).floats == ""
    for name, model in (("quantised", loaded), ("codes", codes["codes"])):
        config = attach(model, "lora", ADAPTERS["lora"].config(), ["q_proj"])
        (tmp_path / f"on_{name}").mkdir()
        save_adapter(tmp_path / f"on_{name}", model, "lora", config)
        load_adapter(load_model(base, "float32", choice=QUANTISED).model, tmp_path / f"on_{name}")
        load_adapter(load_model(tmp_path / "codes", "float32").model, tmp_path / f"on_{name}")
        load_adapter(tiny.load(base), tmp_path / f"on_{name}")
        with pytest.raises(ModelError, match="trained on another base .*allow_other_base"):
            load_adapter(load_model(other, "float32", choice=QUANTISED).model, tmp_path / f"on_{name}")
        with pytest.raises(ModelError, match="trained on another base .*allow_other_base"):
            load_adapter(load_model(tmp_path / "other_codes", "float32").model, tmp_path / f"on_{name}")
        with pytest.raises(ModelError, match="trained on another base"):
            merge(MergeJob(tmp_path / "other_codes", tmp_path / f"on_{name}", tmp_path / "merged"))
    load_adapter(load_model(base, "float32", choice=Choice("weight_only_int8")).model, tmp_path / "on_codes")


def test_weights_trained_whole_have_one_place_for_all_adapters(base, folders, tmp_path):
    from paddle_sft.adapters.whole import train_whole

    model = tiny.load(base)
    train_whole(model, ["norm"])
    config = attach(model, "lora", ADAPTERS["lora"].config(), ["q_proj"])
    save_adapter(tmp_path, model, "lora", config)
    with pytest.raises(ModelError, match="can't be had without its adapter: beside it llama.norm.weight"):
        with disabled(model):
            pass
    two = tiny.load(base)
    load_adapter(two, folders["one"], "one")
    with pytest.raises(ModelError, match="can't share the base with one: .*merge it"):
        load_adapter(two, tmp_path, "whole")
