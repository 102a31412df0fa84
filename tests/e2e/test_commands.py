"""The commands of the README, as a user types them."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from tests import tiny
from tests.e2e.commands import (
    GENERATE,
    MERGE,
    ROOT,
    TRAIN,
    differences,
    finish,
    here,
    losses,
    process,
    read_json,
    snapshot,
    start,
)

LLAMA = ROOT / "config" / "llama"


def _overrides(lab, output, *more):
    words = ("--model_name_or_path", lab.model, "--dataset_name_or_path", lab.data, "--output_dir", output)
    return (*words, "--max_steps", 3, "--logging_steps", 1, "--device", "cpu", *more)


# ---- run_finetune.py with the files of config/ -------------------------------------------------------------------


def test_run_finetune_with_the_lora_file_and_overrides_that_win(lab, tmp_path):
    base = snapshot(lab.model)
    data = snapshot(lab.data)
    command = (
        "run_finetune.py",
        "./config/llama/lora_argument.json",
        *_overrides(lab, tmp_path / "out", "--lora_rank", 4),
    )
    outcome = process(*command).succeeded()
    used, written = read_json(tmp_path / "out" / "arguments.json"), read_json(LLAMA / "lora_argument.json")
    assert (used["lora_rank"], used["max_steps"]) == (4, 3)
    assert used["learning_rate"] == written["learning_rate"]
    assert used["gradient_accumulation_steps"] == written["gradient_accumulation_steps"] == 8
    assert len(losses(tmp_path / "out")) == 3
    assert "bf16 needs a GPU" in outcome.out
    assert snapshot(lab.model) == base
    assert snapshot(lab.data) == data


@pytest.mark.parametrize("task", ["sft", "pretrain"])
def test_the_other_files_train_the_whole_model(lab, tmp_path, task):
    words = _overrides(lab, tmp_path / "out", "--max_length", 64)
    outcome = here(TRAIN, LLAMA / f"{task}_argument.json", *words).succeeded()
    plan = read_json(tmp_path / "out" / "plan.json")
    assert plan["trainable_parameters"] == plan["total_parameters"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != (lab.model / "model.safetensors").read_bytes()
    assert ("blocks of 64 tokens" in outcome.out) == (task == "pretrain")


def test_the_same_keys_in_yaml_train_the_same_model(lab, tmp_path):
    lab.train(tmp_path / "json")
    settings = lab.settings(output_dir=str(tmp_path / "yaml"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    here(TRAIN, tmp_path / "run.yaml").succeeded()
    assert differences(tmp_path / "json", tmp_path / "yaml") == ["arguments.json"]


def test_a_model_from_scratch_follows_the_seed_and_needs_no_weights(lab, tmp_path):
    scratch = tmp_path / "new"
    tiny.make_tokenizer(scratch)
    (scratch / "config.json").write_text(json.dumps(tiny.config("qwen2")), encoding="utf-8")
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        lab.train(
            tmp_path / name, model_name_or_path=None, config_name=str(scratch), lora=None, stage="pretrain",
            src_length=None, seed=seed, shuffle=False, save_strategy="no",
        )  # fmt: skip
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other")]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    words = ("--model_name_or_path", tmp_path / "one", "--prompt", "red cat", "--max_new_tokens", 2)
    here(GENERATE, *words).succeeded()


def test_an_adapter_goes_on_from_an_adapter(lab, tmp_path, finished):
    lab.train(tmp_path / "out", lora_path=str(finished), learning_rate=0.0, max_steps=1)
    assert (tmp_path / "out" / "adapter.safetensors").read_bytes() == (finished / "adapter.safetensors").read_bytes()


# ---- places ------------------------------------------------------------------------------------------------------


def test_paths_with_spaces_and_chinese_and_markup_work_everywhere(lab, tmp_path):
    place = tmp_path / "我的 实验 $x_{"
    data = tiny.make_data(place / "数据 集", 12, 4)
    out = place / "结果 1$"
    command = lab.write(out, dataset_name_or_path=str(data), plot_loss=True, do_predict=True, do_eval=True)
    trained = here(TRAIN, command).succeeded()
    assert "Warning" not in trained.err
    here(MERGE, "--model_name_or_path", lab.model, "--lora_path", out, "--output_path", place / "合并 后").succeeded()
    answers = place / "回答 们.json"
    words = ("--model_name_or_path", place / "合并 后", "--prompt", "红 cat", "--max_new_tokens", 2)
    here(GENERATE, *words, "--output_file", answers).succeeded()
    assert json.loads(answers.read_text(encoding="utf-8"))["src"] == "红 cat"
    assert (out / "loss.png").is_file()


def test_relative_paths_start_at_the_working_directory_wherever_the_file_lies(lab, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    settings = lab.settings(
        model_name_or_path=os.path.relpath(lab.model), dataset_name_or_path=os.path.relpath(lab.data)
    )
    (tmp_path / "files" / "run.json").write_text(json.dumps({**settings, "output_dir": "out"}), encoding="utf-8")
    here(TRAIN, "../files/run.json").succeeded()
    assert (tmp_path / "work" / "out" / "adapter.safetensors").is_file()
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["run.json"]
    words = ("--model_name_or_path", os.path.relpath(lab.model), "--lora_path", "out", "--output_path", "merged")
    here(MERGE, *words).succeeded()
    assert (tmp_path / "work" / "merged" / "merge_receipt.json").is_file()


# ---- merge and generate ------------------------------------------------------------------------------------------

PROMPTS = ["red cat :", "the dog sings :", "under the tree a bird runs :", "river :", "house and the cat :"]
LEARNED = dict(max_steps=120, learning_rate=0.01, save_strategy="no", logging_steps=20)
"""Long enough to give different prompts different answers."""


def _answers(tmp_path, *words):
    """The greedy answers to PROMPTS."""
    lines = tiny.write_lines(tmp_path / "prompts.json", [{"src": prompt} for prompt in PROMPTS])
    output = tmp_path / "answers.json"
    here(GENERATE, *words, "--prompt_file", lines, "--output_file", output, "--max_new_tokens", 12).succeeded()
    return [json.loads(line)["output"] for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def adapter(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "out"
    lab.train(folder, **LEARNED)
    return folder


def test_merge_lora_params_with_either_name_of_the_output_answers_as_the_adapter_does(lab, adapter, tmp_path):
    base, trained = snapshot(lab.model), snapshot(adapter)
    words = ("--model_name_or_path", lab.model, "--lora_path", adapter, "--device", "cpu")
    line = ("merge_lora_params.py", *words, "--merge_model_path", tmp_path / "one", "--safe_serialization", "True")
    outcome = process(*line).succeeded()
    assert "merged = base + adapter" in outcome.out
    here(MERGE, *words, "--output_path", tmp_path / "two").succeeded()
    assert differences(tmp_path / "one", tmp_path / "two") == []
    expected = _answers(tmp_path, "--model_name_or_path", lab.model, "--lora_path", adapter)
    assert len(set(expected)) > 2
    assert expected != _answers(tmp_path, "--model_name_or_path", lab.model)
    assert _answers(tmp_path, "--model_name_or_path", tmp_path / "one") == expected
    receipt = read_json(tmp_path / "one" / "merge_receipt.json")
    assert receipt["max_abs_logit_difference"] < 1e-4
    assert receipt["top1_agreement"] == 1.0
    assert snapshot(lab.model) == base
    assert snapshot(adapter) == trained


@pytest.mark.parametrize(
    "words, file",
    [
        (["--safe_serialization", "False"], "model_state.pdparams"),
        (["--format", "hf"], "model.safetensors"),
        (["--max_shard_size", "40KB"], "model.safetensors.index.json"),
    ],
)
def test_every_form_of_the_merged_model_answers_the_same(lab, adapter, tmp_path, words, file):
    sources = ("--model_name_or_path", lab.model, "--lora_path", adapter)
    here(MERGE, *sources, "--output_path", tmp_path / "m", *words).succeeded()
    assert (tmp_path / "m" / file).is_file()
    assert _answers(tmp_path, "--model_name_or_path", tmp_path / "m") == _answers(tmp_path, *sources)


def test_generate_in_a_process_prints_prompt_and_answer(lab, adapter, tmp_path):
    expected = _answers(tmp_path, "--model_name_or_path", lab.model, "--lora_path", adapter)[0]
    words = ("--model_name_or_path", lab.model, "--lora_path", adapter, "--prompt", PROMPTS[0], "--max_new_tokens", 12)
    outcome = process("-m", "paddle_sft", "generate", *words).succeeded()
    assert f'"{PROMPTS[0]}"\n  -> {expected}\n' in outcome.out


def test_predictions_are_the_answers_that_generate_gives(lab, tmp_path):
    lab.train(tmp_path / "out", do_predict=True, **LEARNED)
    lines = (tmp_path / "out" / "predictions.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    dev = [json.loads(line) for line in (lab.data / "dev.json").read_text(encoding="utf-8").splitlines()]
    assert [(row["src"], row["tgt"]) for row in rows] == [(row["src"], row["tgt"]) for row in dev]
    words = ("--model_name_or_path", lab.model, "--lora_path", tmp_path / "out", "--prompt_file", lab.data / "dev.json")
    here(GENERATE, *words, "--output_file", tmp_path / "answers.json").succeeded()
    answers = (tmp_path / "answers.json").read_text(encoding="utf-8").splitlines()
    assert [row["output"] for row in rows] == [json.loads(line)["output"] for line in answers]
    assert len({row["output"] for row in rows}) > 4


# ---- several ranks -----------------------------------------------------------------------------------------------

WATCH_RANK_1 = """
import os, sys
if os.environ.get("PADDLE_TRAINER_ID") == "1":
    log = os.open(os.environ["WRITES_OF_RANK_1"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    root = os.environ["WATCHED"]
    changes = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate", "os.link")
    def watch(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            note(event, arguments[0])
        elif event in changes:
            note(event, arguments[0])
    def note(event, path):
        if isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith(root):
            os.write(log, f"{event} {os.fsdecode(path)}\\n".encode())
    sys.addaudithook(watch)
"""
"""A sitecustomize.py: notes every change that rank 1 makes below a folder."""

LAUNCHERS = {
    "paddle": [
        "-u",
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "--log_dir",
        "log",
        ROOT / "run_finetune.py",
    ],
    "ours": ["-m", "paddle_sft.cli.main", "launch", "--nproc", "2", "--log_dir", "log", "train"],
}


def test_two_ranks_train_as_one_and_only_the_first_writes(lab, tmp_path):
    """Under Paddle's own launcher, with LoRA: tests/parallel/test_commands.py."""
    require_two_ranks_as_one(lab, tmp_path, "ours", dict(lora=None, learning_rate=1e-3))


def require_two_ranks_as_one(lab, tmp_path, launcher, method):
    from paddle_sft.core.tensorfile import TensorFile

    # epsilon far above rounding: AdamW turns a gradient of 1e-9 and one of -1e-9 into steps of full size, both ways
    shared = dict(max_steps=7, evaluation_strategy="steps", eval_steps=3, save_steps=4, adam_epsilon=1e-4, **method)
    lab.train(tmp_path / "one", per_device_train_batch_size=2, gradient_accumulation_steps=2, **shared)
    out = tmp_path / "two"
    command = lab.write(out, per_device_train_batch_size=1, gradient_accumulation_steps=2, **shared)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH_RANK_1, encoding="utf-8")
    watched = {"WRITES_OF_RANK_1": str(tmp_path / "writes"), "WATCHED": str(out)}
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    outcome = finish(start(*LAUNCHERS[launcher], command, folder=tmp_path, changes={**watched, "PYTHONPATH": path}))
    assert outcome.code == 0, outcome.err + "".join(f.read_text() for f in (tmp_path / "log").glob("workerlog.*"))
    for name in ("loss", "eval_loss"):
        assert losses(out, name) == pytest.approx(losses(tmp_path / "one", name), rel=1e-6, abs=1e-6)
    file = "adapter.safetensors" if method["lora"] else "model.safetensors"
    one, two = TensorFile(tmp_path / "one" / file), TensorFile(out / file)
    assert one.specs == two.specs
    for name in one.specs:
        assert abs(one.read(name) - two.read(name)).max() < 1e-6, name
    assert read_json(out / "plan.json") == read_json(tmp_path / "one" / "plan.json")
    assert read_json(out / "arguments.json")["num_ranks"] == 2
    writes = (tmp_path / "writes").read_text(encoding="utf-8").splitlines()
    assert writes, "the watch saw nothing, not even the probe for a writable folder"
    assert [line for line in writes if "probe" not in line and not line.endswith(("mkdir " + str(out)))] == []


def test_a_mistake_under_the_launcher_ends_with_2_and_its_message(lab, tmp_path):
    command = lab.write(tmp_path / "out", dataset_name_or_path=str(tmp_path / "nowhere"))
    words = ("-m", "paddle_sft.cli.main", "launch", "--nproc", "2", "--log_dir", tmp_path / "log", "train", command)
    outcome = process(*words, folder=tmp_path)
    assert outcome.code == 2, outcome.err
    assert "no such file or folder" in outcome.err
    assert "Traceback" not in outcome.err
