"""paddle-sft explain says all about a key under any of its spellings."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.keys import finetune_catalogue
from paddle_sft.cli.explain import main


def said(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("spelling", ["lora_rank", "lora_r", "r", "--lora_rank"])
def test_a_key_is_explained_under_every_spelling(capsys, spelling):
    text = said(capsys, spelling)
    for part in (
        "lora_rank: ",
        "a whole number",
        "default    8",
        "lora_r, r",
        "at least 1",
        "Adapter",
        "available  yes",
    ):
        assert part in text


@pytest.mark.parametrize("spelling", sorted(finetune_catalogue().spellings()))
def test_every_spelling_has_an_explanation(capsys, spelling):
    assert len(said(capsys, spelling).splitlines()) >= 3


def test_choices_synonyms_and_values_to_come_are_listed(capsys):
    text = said(capsys, "stage")
    assert "sft, pretrain" in text and "pt means pretrain" in text and "dpo" in text


def test_a_key_that_is_not_available_says_so_and_where_it_is_off(capsys):
    text = said(capsys, "expert_parallel_degree")
    assert "not yet; accepted at -1 or 1 or 0 only. Until then: " in text


def test_a_translated_key_says_what_it_sets(capsys):
    assert "sets       lora" in said(capsys, "finetuning_type")
    assert "finetuning_type, use_peft" in said(capsys, "lora")


def test_a_key_of_several_commands_is_explained_for_each(capsys):
    text = said(capsys, "device")
    assert "In merge_lora_params.py:" in text and "In paddle-sft generate:" in text


def test_a_key_of_another_command_alone_is_found(capsys):
    assert "merge_model_path" in said(capsys, "output_path")


def test_a_typo_gets_near_names_and_exit_code_2(capsys):
    assert main(["lora_rnak"]) == 2
    assert "there is no argument 'lora_rnak'; near names: lora_rank" in capsys.readouterr().err


def test_nothing_lists_every_group(capsys):
    text = said(capsys)
    for title in ("Model:", "Data:", "Adapter:", "Training:", "Parallel:", "Other keys of PaddleNLP's"):
        assert title in text


def test_the_schema_is_printed(capsys):
    assert "lora_rank" in json.loads(said(capsys, "--schema"))["properties"]


def test_help_is_short(capsys):
    assert said(capsys, "--help").startswith("usage: paddle-sft explain")
