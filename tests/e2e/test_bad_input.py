"""What a user gets wrong in data, models and arguments: exit code 2, one clear message, nothing lost, no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.e2e.commands import ROOT, TRAIN, differences, here, process, read_json, snapshot

GOOD = '{"src": "red cat :", "tgt": "red"}\n'


@pytest.fixture
def refuse(lab, tmp_path, finished):
    """Run the command of a finished run with changes; it must be refused and leave that run's folder as it was."""

    def run(*phrases: str, **changes):
        before = snapshot(finished)
        command = lab.write(finished, **changes)
        outcome = here(TRAIN, command).refused(*phrases)
        assert snapshot(finished) == before
        fresh = lab.write(tmp_path / "fresh", **changes)
        here(TRAIN, fresh).refused(*phrases)
        assert list((tmp_path / "fresh").glob("*.safetensors")) == []
        return outcome

    return run


# ---- data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, phrases",
    [
        ("", ["train.json is empty"]),
        ("\n \n", ["train.json is empty"]),
        (GOOD + '{"src": "red"', ["train.json line 2", "not valid JSON"]),
        (GOOD + GOOD + '{"tgt": "red"}', ["train.json line 3", "src"]),
        (GOOD + '{"src": "red"}', ["train.json line 2", "tgt"]),
        ('{"src": ["a", "b"], "tgt": ["c"]}', ["train.json line 1", "src has 2", "tgt has 1"]),
        ('{"src": "red", "tgt": ""}', ["train.json line 1", "tgt is empty"]),
        ('{"src": ["a", "b"], "tgt": ["c", " "]}', ["train.json line 1", "tgt[1] is empty"]),
        ('{"src": 3, "tgt": "red"}', ["train.json line 1", "src is", "a string is needed"]),
        ((GOOD + '{"src": "é", "tgt": "red"}').encode("latin-1"), ["train.json line 2", "not UTF-8", "0xe9"]),
        ((GOOD + "[1]\nnull\n{").encode(), ["3 problems", "line 2", "line 3", "line 4"]),
    ],
    ids=["empty", "blank", "broken", "no src", "no tgt", "lists", "empty tgt", "blank tgt", "number", "latin-1", "all"],
)
def test_bad_training_lines_are_named_with_file_and_line(refuse, tmp_path, content, phrases):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refuse(*phrases, dataset_name_or_path=str(data))


def test_a_folder_without_train_json_says_what_was_looked_for_and_found(refuse, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "training.json").write_text(GOOD, encoding="utf-8")
    phrases = ("looked for train.json", "there is training.json")
    refuse(*phrases, dataset_name_or_path=str(tmp_path / "data"))


def test_data_that_is_not_there_is_named(refuse, tmp_path):
    refuse(str(tmp_path / "nowhere"), "no such file or folder", dataset_name_or_path=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("asking", [{"evaluation_strategy": "steps"}, {"do_eval": True}, {"do_predict": True}])
def test_asking_for_the_dev_split_where_there_is_none_is_refused_before_training(refuse, tmp_path, asking):
    tiny.write_lines(tmp_path / "data" / "train.json", tiny.rows(4))
    refuse("has no dev data", "dev.json", dataset_name_or_path=str(tmp_path / "data"), **asking)


def test_an_empty_dev_file_is_refused_before_training(refuse, tmp_path):
    tiny.write_lines(tmp_path / "data" / "train.json", tiny.rows(4))
    (tmp_path / "data" / "dev.json").write_text("", encoding="utf-8")
    refuse("dev.json is empty", dataset_name_or_path=str(tmp_path / "data"), do_eval=True)


def test_predicting_for_texts_without_answers_is_refused_before_training(refuse, tmp_path):
    for split in ("train", "dev"):
        tiny.write_lines(tmp_path / "data" / f"{split}.json", [{"text": "red cat sings the tree"}] * 30)
    changes = dict(stage="pretrain", src_length=None, do_predict=True, dataset_name_or_path=str(tmp_path / "data"))
    refuse("dev.json line 1", "no answer", **changes)


# ---- models ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(lab, tmp_path) -> Path:
    """A copy of the base model, to damage."""
    return Path(shutil.copytree(lab.model, tmp_path / "model"))


def _cut(model: Path, num_bytes: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])


def _set(model: Path, **changes) -> None:
    content = {**read_json(model / "config.json"), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    (model / "config.json").write_text(json.dumps(kept), encoding="utf-8")


MODEL_DAMAGES = {
    "no folder": (lambda model: shutil.rmtree(model), ["no model folder"]),
    "no config": (lambda model: (model / "config.json").unlink(), ["has no config.json"]),
    "broken config": (lambda model: (model / "config.json").write_text("{"), ["config.json is not readable JSON"]),
    "no vocab_size": (lambda model: _set(model, vocab_size=None), ["config.json", "vocab_size"]),
    "vocab_size is text": (lambda model: _set(model, vocab_size="96"), ["config.json", "vocab_size"]),
    "hidden_size is text": (lambda model: _set(model, hidden_size="32"), ["config.json", "hidden_size is '32'"]),
    "half a layer": (lambda model: _set(model, num_hidden_layers=1.5), ["config.json", "num_hidden_layers is 1.5"]),
    "other family": (lambda model: _set(model, model_type="mamba"), ["model_type is 'mamba'", "llama"]),
    "other shape": (lambda model: _set(model, intermediate_size=40), ["up_proj.weight is [32, 48]", "[32, 40]"]),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), ["has no weights"]),
    "weights cut short": (lambda model: _cut(model, -1000), ["model.safetensors is cut short", "promises"]),
    "header cut short": (lambda model: _cut(model, 40), ["model.safetensors", "cut short"]),
    "no tokenizer": (lambda model: (model / "tokenizer.model").unlink(), ["no tokenizer"]),
    "broken tokenizer": (lambda model: (model / "tokenizer_config.json").write_text("{"), ["tokenizer_config.json"]),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGES)
def test_a_damaged_model_folder_is_refused_by_file_and_reason(refuse, model, damage):
    break_it, phrases = MODEL_DAMAGES[damage]
    break_it(model)
    refuse(*phrases, model_name_or_path=str(model))


def test_the_tokenizer_of_a_larger_model_is_refused(refuse, lab, model_folder):
    small = model_folder(vocab_size=50)
    outcome = refuse(
        "ids up to", "50 tokens", str(lab.model), model_name_or_path=str(small), tokenizer_name_or_path=str(lab.model)
    )
    assert "give the tokenizer that belongs to the model" in outcome.err


def test_an_adapter_of_another_base_is_refused_by_the_shapes(refuse, finished, tmp_path, model_folder):
    adapter = shutil.copytree(finished, tmp_path / "adapter")
    wider = model_folder(intermediate_size=64)
    refuse(
        "belongs to another base", "mlp.gate_proj is [32, 64]", "trained on [32, 48]",
        model_name_or_path=str(wider), lora_path=str(adapter),
    )  # fmt: skip


def test_the_output_of_a_full_run_is_no_adapter(refuse, lab):
    refuse("has no adapter.json", "name the output_dir or a checkpoint of an adapter's run", lora_path=str(lab.model))


def test_targets_that_match_nothing_name_the_nearest_layers(refuse):
    refuse("'q_porj' match no layer", "did you mean 'q_proj'?", "down_proj", lora_target_modules=["q_porj", "v_proj"])


# ---- arguments ---------------------------------------------------------------------------------------------------


def test_a_misspelt_key_and_a_wrong_type_are_reported_together(refuse):
    refuse("2 problems", "learning_rte", "learning_rate", "lora_rank", learning_rte=1e-4, lora_rank="many")


def test_a_gpu_that_is_not_there_is_refused_when_it_is_named_in_full(refuse):
    refuse("device is gpu:0", "paddle-sft doctor", "set device to cpu", device="gpu:0")


def test_bf16_on_a_cpu_is_said_not_silently_changed(lab, tmp_path):
    outcome = lab.train(tmp_path / "out", bf16=True, max_steps=1)
    line = next(line for line in outcome.out.splitlines() if "half precision" in line)
    assert "off" in line
    assert "bf16 needs a GPU" in line
    assert "float32" in line
    assert read_json(tmp_path / "out" / "arguments.json")["bf16"] is True


def test_a_half_type_for_the_weights_on_a_cpu_is_refused(refuse):
    refuse("dtype", "bfloat16", "float32", dtype="bfloat16")


def test_a_logger_that_is_not_installed_is_refused_with_the_command_that_installs_it(refuse, monkeypatch):
    monkeypatch.setattr("paddle_sft.train.upstream.find_spec", lambda name: None)
    refuse("wandb", "not installed", "pip install wandb", report_to=["wandb"])


# ---- the same in processes of their own --------------------------------------------------------------------------


def test_a_missing_argument_file_ends_a_process_with_2_before_paddle_is_imported(tmp_path):
    (tmp_path / "lora.json").write_text("{}", encoding="utf-8")
    outcome = process("-X", "importtime", "run_finetune.py", tmp_path / "lara.json")
    outcome.refused("there is no file", "lara.json", "lora.json")
    assert "paddle_sft.arguments.load" in outcome.err
    assert "| paddle\n" not in outcome.err


def test_a_broken_line_ends_a_process_with_2_and_no_traceback(lab, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text(GOOD + "{", encoding="utf-8")
    command = lab.write(tmp_path / "out", dataset_name_or_path=str(tmp_path / "data"))
    outcome = process("-m", "paddle_sft.cli.main", "train", command).refused("train.json line 2", "not valid JSON")
    assert outcome.err.count("\n") <= 4


def test_a_shortened_weight_file_ends_a_process_with_2_and_no_traceback(lab, model, tmp_path):
    _cut(model, -1000)
    command = lab.write(tmp_path / "out", model_name_or_path=str(model))
    process(ROOT / "run_finetune.py", command, folder=tmp_path).refused("model.safetensors is cut short")


def test_the_comparisons_above_can_fail(lab, tmp_path, finished):
    """The run that `refuse` repeats with changes goes through without them, and a difference would be seen."""
    lab.train(tmp_path / "fresh")
    assert differences(tmp_path / "fresh", finished) == ["arguments.json"]
