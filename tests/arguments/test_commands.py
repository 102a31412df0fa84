"""merge_lora_params.py and paddle-sft generate read their own keys with the same rules."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.load import load_generate_arguments, load_merge_arguments
from paddle_sft.core.errors import ArgumentError

MERGE = ["--model_name_or_path", "M", "--lora_path", "L"]


@pytest.mark.parametrize("spelling", ["--output_path", "--merge_model_path"])
def test_merge_takes_the_documented_command(spelling):
    words = [*MERGE, spelling, "O", "--device", "gpu", "--safe_serialization", "True"]
    arguments = load_merge_arguments(words)
    assert (arguments.model_name_or_path, arguments.lora_path, arguments.output_path) == ("M", "L", "O")
    assert arguments.device == "gpu" and arguments.safe_serialization is True and arguments.format == "paddle"


def test_merge_names_all_that_is_missing():
    with pytest.raises(ArgumentError) as caught:
        load_merge_arguments(["--format", "onnx"])
    said = str(caught.value)
    for part in ("model_name_or_path is missing", "lora_path is missing", "output_path is missing", "paddle, hf"):
        assert part in said


@pytest.mark.parametrize("size", ["5GB", "200MB", "1.5 GB", "10KB", "2TB"])
def test_merge_takes_a_shard_size(size):
    assert load_merge_arguments([*MERGE, "--output_path", "O", "--max_shard_size", size]).max_shard_size == size


@pytest.mark.parametrize("size", ["5", "GB", "0GB", "-1GB", "2GiB", "5 gigabytes"])
def test_merge_refuses_a_shard_size_that_is_none(size):
    with pytest.raises(ArgumentError, match="max_shard_size must be a number with KB, MB or GB"):
        load_merge_arguments([*MERGE, "--output_path", "O", f"--max_shard_size={size}"])


def test_merge_suggests_its_own_keys_only():
    with pytest.raises(ArgumentError, match="unknown argument 'lora_paht' .*did you mean lora_path"):
        load_merge_arguments(["--lora_paht", "L", *MERGE, "--output_path", "O"])
    with pytest.raises(ArgumentError, match="unknown argument 'learning_rate'"):
        load_merge_arguments(["--learning_rate", "1", *MERGE, "--output_path", "O"])


def test_merge_reads_a_file_as_well(tmp_path):
    path = tmp_path / "merge.json"
    path.write_text(json.dumps({"model_name_or_path": "M", "lora_path": "L", "output_path": "O", "tolerance": 1e-3}))
    assert load_merge_arguments([str(path), "--tolerance", "0.5"]).tolerance == 0.5


def test_a_prompt_keeps_its_commas_and_brackets():
    arguments = load_generate_arguments(["--model_name_or_path", "M", "--prompt", "[1, 2], a b, c"])
    assert arguments.prompt == "[1, 2], a b, c"


@pytest.mark.parametrize("words", [["--prompt", "a, b", "c"], ["--prompt", "a, b", "--prompt", "c"]])
def test_several_prompts_are_a_list(words):
    assert load_generate_arguments(["--model_name_or_path", "M", *words]).prompt == ["a, b", "c"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--prompt", "a"], "model_name_or_path is missing"),
        (["--model_name_or_path", "M"], "there is no prompt"),
        (["--model_name_or_path", "M", "--prompt", "a", "--prompt_file", "f"], "are both given; keep one"),
        (["--model_name_or_path", "M", "--prompt", "a", "--top_p", "0.9"], "top_p is 0.9 but do_sample is off"),
        (["--model_name_or_path", "M", "--prompt", "a", "--do_sample", "--top_p", "0"], "top_p must be above 0"),
        (["--model_name_or_path", "M", "--prompt", "a", "--max_new_tokens", "0"], "must be at least 1"),
    ],
)
def test_generate_refuses_what_can_not_work(words, message):
    with pytest.raises(ArgumentError) as caught:
        load_generate_arguments(words)
    assert message in str(caught.value)


@pytest.mark.parametrize("load", [load_merge_arguments, load_generate_arguments])
def test_help_exits_with_0(load, capsys):
    with pytest.raises(SystemExit) as caught:
        load(["-h"])
    assert caught.value.code == 0 and "--lora_path" in capsys.readouterr().out
