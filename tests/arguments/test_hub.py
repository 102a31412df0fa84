"""The keys that choose a hub mean the same in every command."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.hub import HUB_KEYS, hub_of
from paddle_sft.arguments.load import load_finetune_arguments, load_generate_arguments, load_merge_arguments
from paddle_sft.core.errors import ArgumentError


def finetune(tmp_path, **keys):
    given = {"model_name_or_path": "a/b", "dataset_name_or_path": "d", "output_dir": "o", "do_train": True, **keys}
    (tmp_path / "run.json").write_text(json.dumps(given))
    return load_finetune_arguments([str(tmp_path / "run.json")]).model


def merge(tmp_path, **keys):
    words = [f"--{key}" for key in keys]
    return load_merge_arguments(["--model_name_or_path", "a/b", "--lora_path", "l", "--output_path", "o", *words])


def generate(tmp_path, **keys):
    return load_generate_arguments(["--model_name_or_path", "a/b", "--prompt", "p", *(f"--{key}" for key in keys)])


commands = pytest.mark.parametrize("command", [finetune, merge, generate])


@commands
@pytest.mark.parametrize("key", HUB_KEYS)
def test_each_key_chooses_its_hub(command, key, tmp_path):
    assert hub_of(command(tmp_path, **{key: True})) == HUB_KEYS[key].hub


@commands
def test_without_a_key_it_is_paddlenlps_registry(command, tmp_path):
    assert hub_of(command(tmp_path)) == "paddlenlp"


@commands
def test_two_hubs_at_once_are_refused(command, tmp_path):
    with pytest.raises(ArgumentError, match="from_hf_hub and from_modelscope are on; a name is looked up on one hub"):
        command(tmp_path, from_hf_hub=True, from_modelscope=True)
