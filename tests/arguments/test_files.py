"""Every way in which an argument file can be bad has its own message, and YAML means what its author meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from paddle_sft.arguments.files import read_file
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.core.errors import ArgumentError


def message_of(path) -> str:
    with pytest.raises(ArgumentError) as caught:
        read_file(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.json", b"  \n", "is empty"),
        ("empty.yaml", b"", "is empty"),
        ("broken.json", b'{\n  "a": 1,\n  "b" 2\n}', "line 3 column 7 is not JSON"),
        ("comma.json", b'{"a": 1,}', "line 1 column"),
        ("list.json", b"[1]", "must hold one object with keys at the top level, found a list"),
        ("text.json", b'"hello"', "found a text"),
        ("null.yaml", b"null", "found nothing"),
        ("number.json", b"3", "found the value 3"),
        ("latin.json", '{"a": "é"}'.encode("latin-1"), "is not UTF-8 (byte 7)"),
        ("deep.json", b'{"a": ' + b"[" * 100000 + b"]" * 100000 + b"}", "nested too deeply"),
        ("broken.yaml", b"a: 1\nb: [1, 2\nc: 3\n", "line 3 column 2 is not YAML"),
        ("tab.yaml", b"a:\n\t- 1\n", "line 2 column 1 is not YAML"),
        ("number.yaml", b"1: 2\n", "the key 1 must be text"),
        ("object.yaml", b"a: !!python/object:os.system {}\n", "is not YAML"),
        ("twice.json", b'{"a": {"b": 1, "b": 2}}', "a has the key b twice; keep one"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    said = message_of(path)
    assert str(path) in said and message in said


def test_a_missing_file_is_reported_with_the_nearest_names(tmp_path):
    (tmp_path / "lora_argument.json").write_text("{}")
    (tmp_path / "sft_argument.json").write_text("{}")
    said = message_of(tmp_path / "lora_arguments.json")
    assert "there is no file" in said and "lora_argument.json" in said.split(" in ")[1]


def test_a_missing_folder_is_reported_with_what_is_there(tmp_path):
    assert "there is no file" in message_of(tmp_path / "no" / "such" / "run.json")


def test_a_folder_in_place_of_a_file_is_reported(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    assert "is a folder" in message_of(tmp_path) and "a.json" in message_of(tmp_path)


def test_an_unreadable_file_is_reported(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # file modes do not stop root, who runs the tests in containers
    assert "a.json can't be read: Permission denied" in message_of(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_file(str(path)) == [("a", 1)]


def test_the_schema_line_of_editors_is_no_argument(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"$schema": "../schema.json", "a": 1}')
    assert read_file(str(path)) == [("a", 1)]


def test_yaml_reads_no_as_text_and_1e4_as_a_number(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: no\nb: 1e-4\nc: 2024-01-01\nd: true\ne:\nf: [x, y]\ng: {h: false}\ni: 5\nj: 'on'\nk: -1.5\n")
    assert read_file(str(path)) == [
        ("a", "no"), ("b", 1e-4), ("c", "2024-01-01"), ("d", True), ("e", None), ("f", ["x", "y"]),
        ("g", {"h": False}), ("i", 5), ("j", "on"), ("k", -1.5),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["run.json", "run.yaml", "run.yml"])
def test_a_key_written_twice_in_a_file_is_a_contradiction(tmp_path, name):
    path = tmp_path / name
    text = '{"lora_rank": 8, "lora_rank": 16}' if name.endswith("json") else "lora_rank: 8\nlora_rank: 16\n"
    path.write_text(text)
    with pytest.raises(ArgumentError, match="lora_rank is given twice in .*: lora_rank is 8 and lora_rank is 16"):
        load_finetune_arguments([str(path)])


RECIPE = """
model_name_or_path: Qwen/Qwen2-1.5B
tokenizer_name_or_path: Qwen/Qwen2-1.5B
torch_dtype: bfloat16
attn_implementation: eager
use_liger: false
bf16: true
dataset_id_or_path: data/train.json
max_seq_length: 1024
packing: false
use_peft: true
load_in_4bit: false
lora_target_modules: "all-linear"
lora_r: 16
lora_alpha: 16
num_train_epochs: 1
per_device_train_batch_size: 8
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
learning_rate: 2.0e-4
lr_scheduler_type: constant_with_warmup
warmup_ratio: 0.1
output_dir: runs/qwen
do_train: true
logging_strategy: steps
logging_steps: 5
report_to:
- tensorboard
save_strategy: "epoch"
seed: 42
push_to_hub: false
hub_strategy: every_save
"""


def test_a_yaml_recipe_of_another_framework_loads(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    arguments = load_finetune_arguments(["--config", str(path)])
    assert arguments.adapter.lora and arguments.adapter.lora_rank == 16 and arguments.adapter.lora_alpha == 16.0
    assert arguments.adapter.lora_target_modules == "all-linear"
    assert arguments.data.dataset_name_or_path == "data/train.json" and arguments.data.max_length == 1024
    assert arguments.train.recompute and not arguments.train.recompute_use_reentrant
    assert arguments.train.report_to == ["tensorboard"] and arguments.train.learning_rate == 2e-4
    assert arguments.model.dtype == "bfloat16" and not arguments.model.use_flash_attention
    assert arguments.derived["lora"] == (True, "use_peft is true")


def test_its_constant_schedule_with_warm_up_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("constant_with_warmup", "constant"))
    with pytest.raises(ArgumentError, match="constant ignores warm-up; use constant_with_warmup"):
        load_finetune_arguments([str(path)])
