from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
import safetensors.numpy

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, from_float32, to_float32, write_arrays
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import build_empty, build_from_scratch, dtype_name, load_model, unique_parameters
from paddle_sft.models.weights import WEIGHTS_NAME
from paddle_sft.models.writer import write_model
from tests import tiny

TIED = [(family, {}) for family in ("qwen2", "gemma", "gemma2", "bloom", "opt", "gpt2")]
TIED += [("llama", {"tie_word_embeddings": True})]
EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")


@pytest.fixture
def rewrite(model_folder, tmp_path):
    """A copy of a tiny model folder whose tensors went through `change(arrays)`."""

    def make(change, family="llama", layout="paddle", **changes):
        folder = shutil.copytree(model_folder(family, layout, **changes), tmp_path / f"{family}-{layout}")
        arrays = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
        change(arrays)
        write_arrays(folder / WEIGHTS_NAME, arrays, {"format": "pt" if layout == "hf" else "np"})
        return folder

    return make


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family, changes", [(family, {}) for family in FAMILIES] + TIED[-1:])
def test_a_model_written_and_read_back_is_the_same_bit_for_bit(model_folder, tmp_path, family, changes, layout):
    model = tiny.load(model_folder(family, **changes))
    write_model(tmp_path, model, layout)
    loaded = load_model(tmp_path, "float32")
    assert loaded.is_hugging_face == (layout == "hf")
    before, after = tiny.snapshot(model), tiny.snapshot(loaded.model)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_give_the_same_logits(model_folder, tmp_path, family, some_ids):
    model = tiny.load(model_folder(family))
    write_model(tmp_path, model, "hf")
    np.testing.assert_array_equal(
        tiny.logits(load_model(tmp_path, "float32").model, some_ids), tiny.logits(model, some_ids)
    )


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])  # its are the same way round
def test_the_hugging_face_layout_has_linear_weights_the_other_way_round(model_folder, family):
    paddles = safetensors.numpy.load_file(model_folder(family, "paddle") / WEIGHTS_NAME)
    faces = safetensors.numpy.load_file(model_folder(family, "hf") / WEIGHTS_NAME)
    last_linear = ("down_proj.weight", "w2.weight", "h.0.mlp.dense_4h_to_h.weight", "0.self_attn.out_proj.weight")
    name = next(name for name in paddles if name.endswith(last_linear))
    other = next(other for other in faces if other.endswith(name.split(".", 1)[1]))
    np.testing.assert_array_equal(faces[other], paddles[name].T)


def test_everything_that_does_not_fit_is_said_at_once(rewrite):
    def change(arrays):
        del arrays["llama.norm.weight"], arrays["llama.layers.1.mlp.up_proj.weight"]
        arrays["llama.layers.7.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
        arrays["lm_head.weight"] = np.zeros((32, 95), np.float32)

    with pytest.raises(ModelError) as caught:
        load_model(rewrite(change), "float32")
    text = str(caught.value)
    assert "2 weights of the model are not there: " in text and "llama.norm.weight" in text
    assert "1 tensors are no weights of the model: llama.layers.7.mlp.up_proj.weight" in text
    assert "lm_head.weight is [32, 95], the config needs [32, 96]" in text


def test_wrong_shapes_of_a_hugging_face_folder_are_said_in_the_models_own_layout(rewrite):
    def change(arrays):
        name = "model.layers.0.mlp.down_proj.weight"
        arrays[name] = arrays[name][:, :-1].copy()

    with pytest.raises(ModelError, match=r"down_proj.weight is \[47, 32\], the config needs \[48, 32\]"):
        load_model(rewrite(change, layout="hf"), "float32")


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family, changes", TIED)
def test_a_tied_head_is_stored_once(model_folder, family, changes, layout):
    names = TensorFile(model_folder(family, layout, **changes) / WEIGHTS_NAME).specs
    assert not [name for name in names if "lm_head" in name]
    model = tiny.load(model_folder(family, layout, **changes))
    assert len(unique_parameters(model)) == len(names)


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family, changes", TIED)
def test_a_stored_copy_of_a_tied_head_that_equals_the_embedding_is_fine(rewrite, family, changes, layout):
    def add_copy(arrays):
        embedding = next(array for name, array in arrays.items() if name.endswith(EMBEDDINGS))
        arrays["lm_head.weight"] = embedding.copy()

    load_model(rewrite(add_copy, family, layout, **changes), "float32")


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family, changes", TIED)
def test_a_stored_head_that_differs_from_the_embedding_is_refused(rewrite, family, changes, layout):
    def add_other(arrays):
        embedding = next(array for name, array in arrays.items() if name.endswith(EMBEDDINGS))
        arrays["lm_head.weight"] = embedding.copy()
        arrays["lm_head.weight"][5, 5] += 1e-3

    with pytest.raises(ModelError, match="no weights of the model: lm_head.weight"):
        load_model(rewrite(add_other, family, layout, **changes), "float32")


@pytest.mark.parametrize("family, changes", TIED)
def test_a_tied_pair_is_one_parameter_and_goes_by_the_name_of_the_embedding(model_folder, family, changes):
    model = tiny.load(model_folder(family, **changes))
    unique = unique_parameters(model)
    assert not any(name.startswith("lm_head") for name in unique)
    assert len({id(parameter) for parameter in unique.values()}) == len(unique)
    assert {id(parameter) for parameter in unique.values()} == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("tag, dtype", [("BF16", "bfloat16"), ("F16", "float16")])
def test_a_half_precision_folder_is_read_exactly_in_float32_and_as_it_is_in_its_own_type(
    model_folder, tmp_path, tag, dtype
):
    folder = shutil.copytree(model_folder(), tmp_path / "half")
    arrays = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
    halves = {name: from_float32(array, tag) for name, array in arrays.items()}
    write_arrays(folder / WEIGHTS_NAME, halves)
    single, half = load_model(folder, "float32").model, load_model(folder, dtype).model
    for name, array in halves.items():
        np.testing.assert_array_equal(single.state_dict()[name].numpy(), to_float32(array, tag))
        assert dtype_name(half.state_dict()[name]) == dtype
        np.testing.assert_array_equal(half.state_dict()[name].numpy(), array)
    write_model(tmp_path, half, "hf")
    assert {spec.tag for spec in TensorFile(tmp_path / WEIGHTS_NAME).specs.values()} == {tag}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype


def test_a_fresh_model_is_a_function_of_its_seed():
    one, same, other = (tiny.snapshot(build_from_scratch(tiny.config("llama"), "float32", seed)) for seed in (7, 7, 8))
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    assert any(not np.array_equal(array, other[name]) for name, array in one.items())


def test_a_loaded_weight_lies_where_paddle_would_have_put_it(model_folder):
    """At a multiple of 64 bytes: elsewhere products round differently, and no run could be repeated bit for bit."""
    model = load_model(model_folder(), "float32").model
    assert {parameter.data_ptr() % 64 for parameter in unique_parameters(model).values()} == {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_model_holds_no_weights(family):
    model = build_empty(tiny.config(family), "float32")
    assert not any(parameter._is_initialized() for parameter in unique_parameters(model).values())


def test_the_default_type_is_put_back_even_after_an_error(tmp_path):
    before = paddle.get_default_dtype()
    with pytest.raises(Exception):
        build_empty({**tiny.config("llama"), "hidden_size": "wide"}, "float16")
    assert paddle.get_default_dtype() == before


def test_a_loaded_model_is_in_evaluation_mode(model_folder):
    assert not load_model(model_folder(), "float32").model.training
    assert not build_from_scratch(tiny.config("llama"), "float32", 0).training


@pytest.mark.parametrize("dtype, tag", [("int32", "I32"), ("float64", "F64"), ("uint8", "U8")])
def test_tensors_of_a_type_that_no_model_has_are_refused(rewrite, dtype, tag):
    """Rounded integers of a quantised checkpoint under the names of weights would load without a word."""

    def change(arrays):
        arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(dtype)

    with pytest.raises(ModelError, match=f"lm_head.weight is stored as {tag}"):
        load_model(rewrite(change), "float32")


@pytest.mark.parametrize("family", [name for name in FAMILIES if "rope_theta" in FAMILIES[name].keys])
def test_no_layer_keeps_a_table_of_all_positions(family):
    model = build_empty(tiny.config(family, max_position_embeddings=5000), "float32")
    assert model.config.max_position_embeddings == 5000
    layers = model.sublayers()
    kept = [value for layer in layers for value in {**vars(layer), **layer._buffers}.values()]
    assert not [value for value in kept if isinstance(value, paddle.Tensor) and 5000 in value.shape]
