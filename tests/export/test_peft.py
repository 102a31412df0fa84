"""Adapter folders for PEFT and back, without torch: tests/parity compares with PEFT itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.peft.catalogue import PROMPTS, WRITTEN
from paddle_sft.adapters.state import load_adapter, read_adapter, save_adapter
from paddle_sft.cli.main import main
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.export.peft import write_adapter_folder, write_peft_folder
from tests import tiny

BASE_OF = {"bitfit": "qwen2"}
PORTABLE = [*WRITTEN, *(table.method for table in PROMPTS.values())]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}

    def base(family="llama"):
        if family not in made:
            made[family] = tiny.make_model(tmp_path_factory.mktemp("base") / family, family)
        return made[family]

    return base


def make(base, folder, method="lora", targets="all-linear", **numbers):
    model = tiny.load(base)
    config = attach(model, method, ADAPTERS[method].config(**numbers), targets if ADAPTERS[method].layer else None)
    tiny.train_deltas(model, size=0.05)
    folder.mkdir()
    save_adapter(folder, model, method, config)
    return model


@pytest.mark.parametrize("method", PORTABLE)
def test_an_adapter_comes_back_from_a_folder_of_peft_as_what_it_was(bases, tmp_path, some_ids, method):
    model = make(bases(), tmp_path / "ours", method)
    write_peft_folder(bases(), tmp_path / "ours", tmp_path / "peft", "a/base")
    again = tiny.load(bases())
    load_adapter(again, tmp_path / "peft")
    np.testing.assert_allclose(tiny.logits(again, some_ids), tiny.logits(model, some_ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", sorted(set(ADAPTERS) - set(PORTABLE)))
def test_a_method_that_peft_has_not_is_refused(bases, tmp_path, method):
    base = bases(BASE_OF.get(method, "llama"))
    make(base, tmp_path / "ours", method)
    with pytest.raises(ArgumentError, match=f"PEFT has no method {method}"):
        write_peft_folder(base, tmp_path / "ours", tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_names_and_layouts_are_pefts(bases, tmp_path):
    make(bases(), tmp_path / "ours", targets=["q_proj", "1.mlp.up_proj"], lora_rank=3)
    write_peft_folder(bases(), tmp_path / "ours", tmp_path / "peft", "a/base")
    arrays = load_file(str(tmp_path / "peft" / "adapter_model.safetensors"))
    ours = read_adapter(tmp_path / "ours").file
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    np.testing.assert_array_equal(arrays[name], ours.read("llama.layers.1.mlp.up_proj.lora_a").T)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "a/base" and config["r"] == 3 and not config["fan_in_fan_out"]
    assert config["target_modules"] == [
        "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj",
    ]  # fmt: skip


def test_experts_are_refused_because_transformers_keeps_them_in_one_tensor(bases, tmp_path):
    make(bases("mixtral"), tmp_path / "ours")
    with pytest.raises(ModelError, match="experts.* is part of a larger tensor in transformers 5"):
        write_peft_folder(bases("mixtral"), tmp_path / "ours", tmp_path / "peft")


def peft(bases, tmp_path, change=None, **keys):
    """A folder of PEFT with changed settings and weights."""
    make(bases(), tmp_path / "ours", targets=["q_proj"])
    folder = tmp_path / "peft"
    write_peft_folder(bases(), tmp_path / "ours", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **keys}))
    arrays = load_file(str(folder / "adapter_model.safetensors"))
    if change is not None:
        change(arrays)
        save_file(arrays, str(folder / "adapter_model.safetensors"))
    return folder


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(lora_bias=True), "lora_bias is True .*merge_and_unload"),
        (dict(bias="all"), "bias is 'all'"),
        (dict(a_new_setting=3), "a_new_setting is 3, a setting that isn't known here"),
        (dict(init_lora_weights="pissa_niter_4"), "pissa_niter_4.*path_initial_model_for_weight_conversion"),
        (dict(peft_type="LORRA"), "LORA"),
        (dict(use_dora=True), "0 of the layers have a magnitude"),
    ],
)
def test_a_setting_that_is_not_honoured_is_never_passed_over(bases, tmp_path, keys, words):
    folder = peft(bases, tmp_path, **keys)
    with pytest.raises((ModelError, ArgumentError), match=words):
        load_adapter(tiny.load(bases()), folder)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda arrays: arrays.pop(min(arrays)), "1 are missing .*q_proj.lora_A"),
        (
            lambda arrays: arrays.update({"base_model.model.model.layers.9.x.lora_A.weight": np.zeros((2, 2))}),
            "layers.9",
        ),
        (lambda arrays: arrays.update({min(arrays): np.zeros((8, 5), np.float32)}), "the config needs"),
        (lambda arrays: arrays.clear(), "it has no weights"),
    ],
)
def test_weights_that_do_not_fit_are_named(bases, tmp_path, change, words):
    folder = peft(bases, tmp_path, change)
    with pytest.raises(ModelError, match=words):
        load_adapter(tiny.load(bases()), folder)


def test_a_pickle_of_peft_is_never_opened(bases, tmp_path):
    folder = peft(bases, tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="adapter_model.bin is a pickle, which may run code"):
        load_adapter(tiny.load(bases()), folder)


def test_the_commands_export_merge_and_generate_with_folders_of_peft(bases, tmp_path, capsys):
    make(bases(), tmp_path / "ours")
    base, paths = str(bases()), {name: str(tmp_path / name) for name in ("ours", "peft", "back", "one", "two")}
    export = ["export", "--model_name_or_path", base]
    assert main([*export, "--lora_path", paths["ours"], "--output_path", paths["peft"]]) == 0
    back = [*export, "--lora_path", paths["peft"], "--output_path", paths["back"], "--format", "paddle_sft"]
    assert main(back) == 0 and main(back) == 2  # the second time it is not empty
    assert "is not empty" in capsys.readouterr().err
    before, after = (read_adapter(tmp_path / name) for name in ("ours", "back"))
    for name in before.file.specs:
        np.testing.assert_array_equal(after.file.read(name), before.file.read(name))
    for adapter, output in (("ours", "one"), ("peft", "two")):
        words = ["merge", "--model_name_or_path", base, "--lora_path", paths[adapter], "--output_path", paths[output]]
        assert main([*words, "--device", "cpu"]) == 0
    one, two = (load_file(f"{paths[name]}/model.safetensors") for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    words = [
        "generate",
        "--model_name_or_path",
        base,
        "--lora_path",
        paths["peft"],
        "--prompt",
        "red",
        "--device",
        "cpu",
    ]
    assert main([*words, "--max_new_tokens", "2"]) == 0


def test_a_folder_of_peft_becomes_one_of_ours_without_its_base_at_hand(bases, tmp_path):
    folder = peft(bases, tmp_path)
    with pytest.raises(ModelError, match="another program; .*export --format paddle_sft"):
        read_adapter(folder)
    write_adapter_folder(bases(), folder, tmp_path / "back")
    assert read_adapter(tmp_path / "back").method == "lora"
