"""Quantised models: while they are loaded, as folders of codes, and what is refused."""

from __future__ import annotations

import json
import shutil
import weakref

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.models import quantised
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.linears import find_linears
from paddle_sft.models.part_of import PartOf
from paddle_sft.models.quantised import plan_lines, quantised_linears, require_cuttable, schemes_of
from paddle_sft.models.stored_schemes import CONFIG_KEY
from paddle_sft.models.writer import write_model
from paddle_sft.quant.choice import Choice
from paddle_sft.quant.codec import quantise
from paddle_sft.quant.scheme import Scheme
from tests import tiny

NF4 = Choice("nf4", double_quant=True)


def load(folder, choice=NF4):
    return load_model(folder, "float32", choice=choice).model


@pytest.fixture
def written(model_folder, tmp_path):
    """A folder of codes; it is the test's own."""

    def make(choice=NF4, family="llama"):
        folder = tmp_path / "codes"
        folder.mkdir()
        write_model(folder, load(model_folder(family), choice), "paddle")
        return folder

    return make


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_all_linear_layers_and_nothing_else_is_quantised(model_folder, family):
    plain, model = tiny.load(model_folder(family, "hf")), load(model_folder(family, "hf"))
    linears = find_linears(plain)
    assert list(quantised_linears(model)) == list(linears)
    for path, layer in quantised_linears(model).items():
        expected = quantise(linears[path].weight.t(), Scheme("nf4", 64, True))
        for name, array in layer.arrays.items():
            np.testing.assert_array_equal(array.numpy(), expected[name].numpy(), f"{path} {name}")
    rest = {name: p for name, p in unique_parameters(plain).items() if name.rpartition(".")[0] not in linears}
    for name, parameter in unique_parameters(model).items():
        np.testing.assert_array_equal(parameter.numpy(), unique_parameters(plain)[name].numpy(), name)
    assert rest.keys() <= unique_parameters(model).keys()
    assert any("embed" in name or "wte" in name for name in rest) and any(
        "norm" in name or "ln" in name for name in rest
    )


@pytest.mark.parametrize(
    "choice", [NF4, Choice("weight_only_int8"), Choice({"fp4": ["up_proj"], "nf4": [".*1.*q_proj"]})]
)
def test_a_folder_of_codes_comes_back_bit_for_bit(model_folder, written, some_ids, choice):
    model = load(model_folder(), choice)
    again = load(written(choice), None)
    assert schemes_of(again) == schemes_of(model)
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name].numpy(), before[name].numpy(), name)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), tiny.logits(model, some_ids))


def test_a_folder_of_codes_has_checksums_and_is_as_small_as_its_codes(model_folder, written):
    folder = written(Choice("weight_only_int8"))
    file = TensorFile(folder / "model.safetensors")
    assert file.checksums.keys() == file.specs.keys()
    assert not any(name.endswith("q_proj.weight") for name in file.specs)
    codes = [spec for name, spec in file.specs.items() if name.endswith(".codes")]
    linears = find_linears(tiny.load(model_folder())).values()
    assert sum(spec.num_bytes for spec in codes) == sum(layer.weight.size for layer in linears)


def test_of_all_layers_one_at_a_time_is_there_as_floats(model_folder, monkeypatch):
    """Peak memory: the codes and one layer."""
    alive, counts = weakref.WeakSet(), []

    def watched(array):
        tensor = as_tensor(array)
        alive.add(tensor)
        counts.append(len(alive))
        return tensor

    as_tensor = quantised.as_tensor
    monkeypatch.setattr(quantised, "as_tensor", watched)
    model = load(model_folder())
    assert len(counts) == 14 and max(counts) == 1 and len(alive) == 0
    assert not any(name.endswith("proj.weight") for name in model.state_dict())


def test_the_original_weight_of_a_layer_can_be_read_again(model_folder, written):
    plain = find_linears(tiny.load(model_folder("llama", "hf")))
    for path, layer in quantised_linears(load(model_folder("llama", "hf"))).items():
        np.testing.assert_array_equal(layer.read_original(), plain[path].weight.numpy())
    assert all(layer.read_original is None for layer in quantised_linears(load(written(), None)).values())


def test_quantising_codes_again_is_refused_and_asking_for_the_same_is_not(written):
    folder = written()
    assert schemes_of(load(folder, NF4)) == schemes_of(load(folder, None))
    with pytest.raises(ArgumentError, match=r"quantised already \(nf4.*asks for weight_only_int8.*leave the quant"):
        load(folder, Choice("weight_only_int8"))


def spoil(folder, change):
    """Change config.json's entry or the arrays of a folder of codes."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    file = TensorFile(folder / "model.safetensors")
    arrays = {name: np.array(file.read(name)) for name in file.specs}
    change(config[CONFIG_KEY], arrays)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_arrays(folder / "model.safetensors", arrays)


LAYER = "llama.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda entry, arrays: arrays.pop(f"{LAYER}.scale_codes"), "1 weights.*are not there: .*q_proj.scale_codes"),
        (
            lambda entry, arrays: arrays.update({f"{LAYER}.codes": arrays[f"{LAYER}.codes"][1:]}),
            r"codes is \[511\], the",
        ),
        (
            lambda entry, arrays: arrays.update({f"{LAYER}.codes": arrays[f"{LAYER}.codes"].astype(np.int8)}),
            "q_proj.codes is stored as I8, it must be U8",
        ),
        (lambda entry, arrays: arrays[f"{LAYER}.scale_scales"].fill(np.nan), "q_proj.scale_scales holds NaN"),
        (lambda entry, arrays: entry.update(format_version=9), "quantised format 9, this version reads 1; upgrade"),
        (lambda entry, arrays: entry["schemes"][0].update(algorithm="nf5"), "config.json can't be read.*nf5"),
        (lambda entry, arrays: entry["schemes"][0].pop("layers"), "config.json can't be read"),
        (
            lambda entry, arrays: entry["schemes"][0]["layers"].append("lm_head"),
            "lm_head, no linear layer of the model",
        ),
    ],
)
def test_damage_is_named(written, change, words):
    folder = written()
    spoil(folder, change)
    with pytest.raises(ModelError, match=words):
        load(folder, None)


def test_a_changed_byte_is_found_by_its_checksum(written):
    folder = written()
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(ModelError, match="was changed after it was written"):
        load(folder, None)


def test_nan_in_a_weight_is_named(model_folder, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(model_folder(), folder)
    file = TensorFile(folder / "model.safetensors")
    arrays = {name: np.array(file.read(name)) for name in file.specs}
    arrays[f"{LAYER}.weight"][3, 5] = np.inf
    write_arrays(folder / "model.safetensors", arrays)
    with pytest.raises(ModelError, match=r"q_proj.weight holds what no weight can be \(1 infinite of 1,024"):
        load(folder)


def test_a_quantised_model_is_written_in_paddles_layout_only(model_folder, tmp_path):
    with pytest.raises(ArgumentError, match="Paddle's layout only"):
        write_model(tmp_path, load(model_folder()), "hf")


def test_the_plan_shows_what_is_quantised_how_and_what_is_not(model_folder):
    lines = plan_lines(load(model_folder(), Choice({"nf4": ["q_proj", "up_proj"]})))
    assert lines["quantised"] == ("nf4, blocks of 64: 4 layers", "q_proj, up_proj")
    assert lines["quantised weights"][0] == f"{2 * (32 * 32 + 32 * 48):,}"
    assert lines["not quantised"][0].startswith("embedding, heads, routers, norms")
    assert lines["not quantised"][1].endswith("of these not k_proj, v_proj, o_proj, gate_proj, down_proj")
    assert plan_lines(tiny.load(model_folder())) == {}


def test_borders_that_leave_scales_for_a_few_weights_are_refused():
    model = nn.LayerDict({"o_proj": nn.Linear(1368, 64)})
    model["o_proj"].weight.part = PartOf((1368, 64), 0, ((342, 684),))
    require_cuttable(model, {"o_proj": Scheme("weight_only_int4")})
    wanted = (
        r"tensor_parallel_degree 4 gives a rank 342 inputs of o_proj \(1368 x 64\), and its borders cut blocks of 64 "
        "weights into pieces of 2, each with a scale of its own .* choose a weight_blocksize that divides"
    )
    with pytest.raises(ArgumentError, match=wanted):
        require_cuttable(model, {"o_proj": Scheme("nf4", 64)})


def test_scales_stay_float32_where_the_model_computes_in_half(model_folder):
    model = load_model(model_folder(), "bfloat16", choice=NF4).model
    layer = quantised_linears(model)[LAYER]
    assert layer.compute_dtype() == "bfloat16" and layer.scale_scales.dtype == paddle.float32
