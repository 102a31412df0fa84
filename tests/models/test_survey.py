"""What is said of a model folder from its headers, against the loaded model and against folders with one fault each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from paddle_sft.core.tensorfile import TensorFile, from_float32, write_arrays
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.survey import memory_bytes, survey, verified
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME
from paddle_sft.models.writer import write_model
from tests import tiny
from tests.docs.reading import ROOT


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of a tiny folder with sound weights and a tokenizer, to be damaged."""
    return shutil.copytree(model_folder("llama", "hf"), tmp_path / "model")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_arrays(folder, change):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
    change(arrays)
    write_arrays(folder / WEIGHTS_NAME, arrays, {"format": "pt"})


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_and_the_layout_are_those_of_the_loaded_model(model_folder, family, layout):
    from paddle_sft.cli.report import count_parameters
    from paddle_sft.models.hub import unique_parameters

    found = survey(model_folder(family, layout))
    model = tiny.load(model_folder(family, layout))
    assert found.problems == [] and found.unknown_keys == []
    assert found.num_parameters == count_parameters(model)[0] == found.dtypes["float32"]
    assert found.layout == {"paddle": "Paddle", "hf": "Hugging Face"}[layout]
    assert found.embedding_rows == 96 and found.has_checksums and found.num_files == 1
    assert found.is_tied == (not [name for name in unique_parameters(model) if name.startswith("lm_head")])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_of_lora_is_about_that_of_its_layers(model_folder, family):
    """About: a matrix that is fused in the folder and several in the model needs another A."""
    from paddle_sft.models.linears import features, find_linears

    linears = find_linears(tiny.load(model_folder(family, "hf"))).values()
    exact = sum(8 * sum(features(layer)) for layer in linears)
    assert memory_bytes(survey(model_folder(family, "hf")), 4, 8)["lora_parameters"] == pytest.approx(exact, rel=0.3)


def test_memory_is_counted_as_adamw_uses_it(model_folder):
    found = survey(model_folder())
    size = found.num_parameters
    assert memory_bytes(found, 4, 8)["full"] == size * (4 + 4 + 8)
    assert memory_bytes(found, 2, 8)["full"] == size * (2 + 2 + 8 + 4)
    assert memory_bytes(found, 2, 8)["weights"] == size * 2


def test_no_weight_is_read_and_no_paddle_imported(model_folder):
    program = (
        "import sys\n"
        "from paddle_sft.core.tensorfile import TensorFile\n"
        "from paddle_sft.models.survey import survey\n"
        "TensorFile.blocks = TensorFile.read = None\n"
        "found = survey(sys.argv[1])\n"
        "assert not found.problems and found.num_parameters and found.tokenizer, found\n"
        "print(sorted(set(sys.modules) & {'paddle', 'paddlenlp', 'torch'}))"
    )
    command = [sys.executable, "-c", program, str(model_folder())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=str(ROOT))
    assert (done.returncode, done.stdout.strip()) == (0, "[]")


def test_a_copy_of_a_tied_head_is_counted_once(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("qwen2", "hf"), tmp_path / "copy")
    before = survey(folder)
    edit_arrays(folder, lambda arrays: arrays.update({"lm_head.weight": arrays["model.embed_tokens.weight"].copy()}))
    after = survey(folder)
    assert (after.num_parameters, after.is_tied) == (before.num_parameters, True) and not after.has_checksums


def test_shards_and_stored_types_are_said(model_folder, tmp_path):
    folder = shutil.copytree(model_folder(), tmp_path / "shards")
    (folder / WEIGHTS_NAME).unlink()
    write_model(folder, tiny.load(model_folder()), "hf", "20KB")
    shards = len(list(folder.glob("*.safetensors")))
    edited = sorted(folder.glob("*.safetensors"))[0]
    arrays = {name: from_float32(array, "BF16") for name, array in safetensors.numpy.load_file(edited).items()}
    write_arrays(edited, arrays)
    index = json.loads((folder / INDEX_NAME).read_text())
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": index["weight_map"]}))
    found = survey(folder)
    assert found.num_files == shards > 1 and set(found.dtypes) == {"float32", "bfloat16"}
    assert found.num_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_chat_template_and_the_tokenizer_are_named(folder):
    found = survey(folder)
    assert found.chat_template == "" and found.tokenizer.startswith("LlamaTokenizer from tokenizer.model, 96 tokens")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert survey(folder).chat_template == "chat_template.jinja"


def test_keys_that_nobody_reads_are_listed(folder):
    edit_config(folder, hyperloop=3, use_cache=True)
    found = survey(folder)
    assert found.unknown_keys == ["hyperloop"] and found.problems == []


FAULTS = {
    "another family": (lambda f: edit_config(f, model_type="chatglm"), "model_type is 'chatglm'"),
    "a key it can't honour": (lambda f: edit_config(f, hidden_act="relu"), "hidden_act 'relu'"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not readable JSON"),
    "no weights": (lambda f: (f / WEIGHTS_NAME).unlink(), "has no weights: expected"),
    "a pickle": (lambda f: (f / WEIGHTS_NAME).rename(f / "pytorch_model.bin"), "a pickle that may run code"),
    "cut weights": (lambda f: (f / WEIGHTS_NAME).write_bytes((f / WEIGHTS_NAME).read_bytes()[:-9]), "is cut short"),
    "an empty file": (lambda f: (f / WEIGHTS_NAME).write_bytes(b""), "model.safetensors is empty"),
    "a pointer": (
        lambda f: (f / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "tokenizer.model is a git-lfs pointer",
    ),
    "a quantised matrix": (
        lambda f: edit_arrays(f, lambda a: a.update({"lm_head.weight": a["lm_head.weight"].astype(np.int8)})),
        "lm_head.weight is stored as I8: a quantised checkpoint",
    ),
    "another vocabulary": (lambda f: edit_config(f, vocab_size=128), "vocab_size 128, the embedding has 96 rows"),
    "no end token": (
        lambda f: (f / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "LlamaTokenizer", "eos_token": None, "add_eos_token": False})
        ),
        "eos_token",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_said_and_nothing_else(folder, fault):
    damage, words = FAULTS[fault]
    damage(folder)
    problems = survey(folder).problems
    assert len(problems) == 1 and words in problems[0], problems


def test_a_tokenizer_of_another_model_is_said(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("llama", "hf", vocab_size=90), tmp_path / "model")
    assert any("gives ids up to 95, the embedding has 90 rows" in problem for problem in survey(folder).problems)


def test_several_faults_are_said_at_once(folder):
    (folder / "tokenizer_config.json").write_text("{")
    edit_config(folder, hidden_act="relu")
    (folder / WEIGHTS_NAME).write_bytes(b"")
    assert len(survey(folder).problems) == 3


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert [problem.split("; ")[0] for problem in survey(tmp_path).problems] == [f"{tmp_path} is an adapter"]


def test_a_pickle_of_paddle_is_not_opened(folder, model_folder):
    (folder / WEIGHTS_NAME).rename(folder / PDPARAMS_NAME)  # anything: it is not looked into
    found = survey(folder)
    assert found.problems == [] and found.num_parameters == 0 and memory_bytes(found, 4, 8) is None
    (folder / PDPARAMS_NAME).write_bytes(b"")
    assert "model_state.pdparams is empty" in survey(folder).problems[0]


def test_every_family_of_the_code_has_measured_numbers():
    assert list(verified()["families"]) == list(FAMILIES)


def test_headers_of_a_shard_are_enough_to_see_a_foreign_one(model_folder, tmp_path):
    folder = shutil.copytree(model_folder(), tmp_path / "shards")
    (folder / WEIGHTS_NAME).unlink()
    write_model(folder, tiny.load(model_folder()), "paddle", "20KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    arrays = safetensors.numpy.load_file(shard)
    name = sorted(arrays)[0]
    arrays[name] = arrays[name] + 1
    write_arrays(shard, arrays, TensorFile(shard).metadata, checksums=True)
    assert f"{shard.name} has by its checksum another version of {name}" in survey(folder).problems[0]
