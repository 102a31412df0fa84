"""Merging what was trained on a quantised base: into what training saw, into the original, and into codes again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import save_adapter
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.export.merge import RECEIPT, MergeJob, describe, merge
from paddle_sft.export.quantise import QuantiseJob, quantise_folder
from paddle_sft.models.hub import load_model
from paddle_sft.models.linears import find_linears
from paddle_sft.models.quantised import quantised_linears, schemes_of
from paddle_sft.quant.choice import Choice
from tests import tiny

CHOICE = Choice("nf4", block_size=16, double_quant=True)


@pytest.fixture
def trained(model_folder, tmp_path):
    """(model in memory, folder of its adapter): trained on a quantised base."""

    def make(method="lora", choice=CHOICE, family="qwen2", folder=None):
        model = load_model(folder or model_folder(family), "float32", choice=choice).model
        config = attach(model, method, ADAPTERS[method].config(), ["q_proj", "down_proj"])
        tiny.train_deltas(model)
        (tmp_path / "adapter").mkdir()
        save_adapter(tmp_path / "adapter", model, method, config)
        return model, tmp_path / "adapter"

    return make


@pytest.fixture
def codes(model_folder, tmp_path):
    quantise_folder(QuantiseJob(model_folder("qwen2"), tmp_path / "codes", CHOICE))
    return tmp_path / "codes"


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "lokr"])
def test_by_default_the_merged_model_is_the_trained_one(model_folder, trained, tmp_path, some_ids, method):
    model, adapter = trained(method)
    receipt = merge(MergeJob(model_folder("qwen2"), adapter, tmp_path / "merged"))
    merged = tiny.load(tmp_path / "merged")
    np.testing.assert_allclose(tiny.logits(merged, some_ids), tiny.logits(model, some_ids), rtol=1e-4, atol=2e-5)
    assert receipt["max_abs_logit_difference"] < 1e-4 and receipt["tolerance"] == 0.01
    assert receipt["merge_into"] == "dequantised" and "nf4" in receipt["base_quantised"]
    assert "against_trained" not in receipt and "nf4" in describe(receipt)
    others = {path: layer for path, layer in quantised_linears(model).items() if path.endswith("up_proj")}
    for path, layer in others.items():  # no adapter there: the dequantised weight itself
        np.testing.assert_array_equal(find_linears(merged)[path].weight.numpy(), layer.weight_matrix().numpy())


def test_a_folder_of_codes_merges_as_the_model_it_was_made_from(model_folder, codes, trained, tmp_path):
    _, adapter = trained()
    merge(MergeJob(model_folder("qwen2"), adapter, tmp_path / "one"))
    merge(MergeJob(codes, adapter, tmp_path / "other"))
    one, other = (TensorFile(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert one.specs.keys() == other.specs.keys()
    for name in one.specs:
        np.testing.assert_array_equal(one.read(name), other.read(name), name)


def test_into_the_original_is_another_model_and_the_receipt_says_how_far(model_folder, trained, tmp_path, some_ids):
    model, adapter = trained()
    receipt = merge(MergeJob(model_folder("qwen2"), adapter, tmp_path / "merged", merge_into="original"))
    merged, plain = tiny.load(tmp_path / "merged"), tiny.load(model_folder("qwen2"))
    for path, layer in find_linears(merged).items():
        before = find_linears(plain)[path].weight.numpy()
        update = 0.0
        if path.endswith(("q_proj", "down_proj")):
            update = dict(model.named_sublayers())[path].update.delta_weight().numpy()
        np.testing.assert_allclose(layer.weight.numpy(), before + update, rtol=1e-6, atol=1e-7)
    assert receipt["max_abs_logit_difference"] < 1e-4  # of original + adapter
    far = receipt["against_trained"]["max_abs_logit_difference"]
    assert 0.01 < far < 5 and f"{far:.2e}" in describe(receipt)
    assert json.loads((tmp_path / "merged" / RECEIPT).read_text())["against_trained"]["max_abs_logit_difference"] == far


@pytest.mark.parametrize("from_codes", [False, True])
def test_codes_again_leave_untouched_layers_as_they_were(model_folder, codes, trained, tmp_path, from_codes):
    model, adapter = trained()
    base = codes if from_codes else model_folder("qwen2")
    receipt = merge(MergeJob(base, adapter, tmp_path / "merged", requantise=True))
    merged = load_model(tmp_path / "merged", "float32").model
    assert schemes_of(merged) == schemes_of(model) and receipt["requantised"] and receipt["tolerance"] is None
    for path, layer in quantised_linears(model).items():
        again = quantised_linears(merged)[path]
        if path.endswith(("q_proj", "down_proj")):
            assert (again.codes.numpy() != layer.codes.numpy()).any(), path
        else:
            for name, array in layer.arrays.items():
                np.testing.assert_array_equal(again.arrays[name].numpy(), array.numpy(), f"{path} {name}")
    with pytest.raises(ModelError, match="more than the tolerance"):
        merge(MergeJob(base, adapter, tmp_path / "again", requantise=True, tolerance=1e-4))


def test_an_adapter_of_a_float_base_meets_codes_as_floats(model_folder, codes, tmp_path):
    model = tiny.load(model_folder("qwen2"), trainable=True)
    config = attach(model, "lora", ADAPTERS["lora"].config(), None)
    tiny.train_deltas(model)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model, "lora", config)
    receipt = merge(MergeJob(codes, tmp_path / "adapter", tmp_path / "merged"))
    assert receipt["max_abs_logit_difference"] < 1e-4 and "nf4" in receipt["base_quantised"]


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(merge_into="original"), r"codes holds codes only \(nf4.*name the float model"),
        (dict(requantise=True, layout="hf"), "Paddle's layout"),
        (dict(requantise=True, safe_serialization=False), "Paddle's layout"),
        (dict(requantise=True, merge_into="original"), "merge_into is original|requantise writes codes"),
    ],
)
def test_what_can_not_be_merged_so_is_said(codes, trained, tmp_path, keys, words):
    _, adapter = trained()
    with pytest.raises(ArgumentError, match=words):
        merge(MergeJob(codes, adapter, tmp_path / "merged", **keys))
    assert not (tmp_path / "merged").exists()


def test_requantising_what_never_was_quantised_is_refused(model_folder, tmp_path):
    model = tiny.load(model_folder(), trainable=True)
    config = attach(model, "lora", ADAPTERS["lora"].config(), None)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model, "lora", config)
    with pytest.raises(ArgumentError, match="trained on floats.*paddle-sft quantize"):
        merge(MergeJob(model_folder(), tmp_path / "adapter", tmp_path / "merged", requantise=True))


@pytest.mark.parametrize("algorithm", ["nf4", "weight_only_int8"])
def test_a_quantised_folder_is_what_loading_quantises_and_reports_its_distance(
    model_folder, tmp_path, some_ids, algorithm
):
    choice = Choice(algorithm)
    report = quantise_folder(QuantiseJob(model_folder("gemma"), tmp_path / "codes", choice))
    loaded = load_model(tmp_path / "codes", "float32").model
    direct = load_model(model_folder("gemma"), "float32", choice=choice).model
    np.testing.assert_array_equal(tiny.logits(loaded, some_ids), tiny.logits(direct, some_ids))
    assert 0 < report["max_abs_logit_difference"] < (0.2 if algorithm == "weight_only_int8" else 5)
    layers = quantised_linears(direct).values()
    held = sum(array.numpy().nbytes for layer in layers for array in layer.arrays.values())
    assert report["bytes_of_quantised_weights"] == held
    assert report["num_quantised_weights"] == sum(layer.in_features * layer.out_features for layer in layers)
    assert (tmp_path / "codes" / "tokenizer.model").is_file()
    for again, words in ((tmp_path / "codes", "is not empty"), (tmp_path / "more", "is quantised already")):
        with pytest.raises(ArgumentError, match=words):
            quantise_folder(QuantiseJob(tmp_path / "codes", again, choice))


def test_nan_stops_the_writing_of_codes_and_leaves_nothing(model_folder, tmp_path):
    shutil.copytree(model_folder(), tmp_path / "nan")
    file = TensorFile(tmp_path / "nan" / "model.safetensors")
    arrays = {name: np.array(file.read(name)) for name in file.specs}
    arrays["llama.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    write_arrays(tmp_path / "nan" / "model.safetensors", arrays)
    with pytest.raises(ModelError, match="llama.layers.1.mlp.up_proj.weight holds NaN"):
        quantise_folder(QuantiseJob(tmp_path / "nan", tmp_path / "codes", CHOICE))
    assert not (tmp_path / "codes").exists()
