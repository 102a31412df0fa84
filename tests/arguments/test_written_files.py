"""What tools/make_arguments.py writes is what is committed, and the shipped configurations load."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from paddle_sft.arguments.adapter_methods import METHODS
from paddle_sft.arguments.keys import finetune_catalogue
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.arguments.schema import finetune_schema
from paddle_sft.arguments.upstream_table import UPSTREAM

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "config").glob("*/*_argument.*") if path.suffix in (".json", ".yaml", ".yml"))
FAMILIES = ("llama", "qwen2", "gemma", "bloom", "mistral")
OURS = [path for path in CONFIGS if path.parent.name in FAMILIES]
SEEN_ANYWAY = {"model_name_or_path", "dataset_name_or_path", "output_dir", "$schema"}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_arguments", ROOT / "tools" / "make_arguments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["docs/arguments.md", "docs/arguments_zh.md", "config/schema.json"])
def test_docs_and_schema_are_up_to_date(tool, name):
    assert (ROOT / name).read_text(encoding="utf-8") == dict(tool.written_files(with_upstream=False))[name]


def test_the_upstream_table_is_that_of_the_installed_paddlenlp(tool):
    assert (ROOT / tool.UPSTREAM_FILE).read_text(encoding="utf-8") == tool.upstream_table()


def test_the_upstream_table_has_paddlenlps_names_and_defaults():
    from paddlenlp.trainer import TrainingArguments

    fields = {
        field.name: field.default for field in dataclasses.fields(TrainingArguments) if field.name != "output_dir"
    }
    assert {name: known.default for name, known in UPSTREAM.items() if name != "output_dir"} == fields


def test_our_choices_are_paddlenlps():
    for name in ("optim", "lr_scheduler_type", "evaluation_strategy", "save_strategy", "logging_strategy"):
        choices = finetune_catalogue().keys[name].choices
        assert set(choices.allowed) <= set(UPSTREAM[name].choices), name
        assert set(UPSTREAM[name].choices) == set(choices.allowed) | set(choices.refused), name


def test_our_defaults_differ_from_paddlenlps_only_where_the_requirements_say_so():
    keys = finetune_catalogue().keys
    differing = {name for name, known in UPSTREAM.items() if name in keys and keys[name].default != known.default}
    # 3 epochs: row 75; no logger and any device unless asked for; no null for switches
    expected = {"num_train_epochs", "report_to", "device", "disable_tqdm"}
    assert differing == expected


def test_each_family_has_its_three_configurations():
    names = {f"{path.parent.name}/{path.name}" for path in OURS}
    tasks = ("sft", "lora", "pretrain")
    classifiers = {f"{family}/classification_argument.json" for family in ("llama", "qwen2")}
    assert names >= classifiers | {f"{family}/{task}_argument.json" for family in FAMILIES for task in tasks}


def test_every_adapter_method_has_a_configuration():
    methods = {load_finetune_arguments([str(path)]).adapter.adapter for path in OURS}
    assert methods - {None} == set(METHODS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_configuration_loads(path):
    arguments = load_finetune_arguments([str(path)])
    assert arguments.train.do_train
    if path.name == "lora_argument.json":
        assert arguments.adapter.lora
    if path.name == "pretrain_argument.json":
        assert arguments.train.stage == "pretrain"


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_configuration_holds_only_what_differs_from_the_defaults(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    keys = finetune_catalogue().keys
    same = [name for name, value in content.items() if name not in SEEN_ANYWAY and keys[name].default == value]
    assert same == [] and SEEN_ANYWAY <= set(content)


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_configuration_points_to_the_schema(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (path.parent / content["$schema"]).resolve() == ROOT / "config" / "schema.json"
    assert set(content) <= set(finetune_schema()["properties"])


def test_the_schema_has_every_spelling_and_no_other():
    properties = set(finetune_schema()["properties"])
    assert properties == {*finetune_catalogue().spellings(), "$schema", "gradient_checkpointing_kwargs"}


def test_the_schema_says_types_limits_choices_and_what_is_off():
    properties = finetune_schema()["properties"]
    assert properties["lora_rank"]["type"] == "integer" and properties["lora_rank"]["minimum"] == 1
    assert properties["max_steps"]["anyOf"] == [{"type": "integer", "minimum": 1}, {"enum": [-1]}]
    assert "pt" in properties["stage"]["enum"] and "dpo" not in properties["stage"]["enum"]
    assert properties["use_liger"]["enum"] == [False]
    assert properties["expert_parallel_degree"]["enum"] == [-1, 1, 0]
    assert properties["report_to"]["items"]["enum"] == ["visualdl", "tensorboard", "wandb", "none"]
    assert finetune_schema()["additionalProperties"] is False
