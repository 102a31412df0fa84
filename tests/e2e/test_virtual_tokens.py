"""Runs that train prompts, prefixes and edits, typed as a user types them."""

from __future__ import annotations

import pytest
from safetensors import safe_open

from tests.e2e.commands import GENERATE, MERGE, TRAIN, differences, here, read_json, rewind

METHODS = {
    "prompt_tuning": dict(num_virtual_tokens=5, prompt_tuning_init="TEXT", prompt_tuning_init_text="the red cat :"),
    "p_tuning": dict(num_virtual_tokens=5, encoder_reparameterization_type="LSTM", encoder_hidden_size=6),
    "prefix_tuning": dict(num_prefix_tokens=5, encoder_hidden_size=6),
    "reft": dict(position="f2+l2", layers=[1], rank=2),
}


def names_of(folder):
    with safe_open(str(folder / "adapter.safetensors"), "np") as file:
        return set(file.keys())


@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_uninterrupted_and_the_result_has_what_use_needs(lab, tmp_path, method):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, lora=None, adapter=method, packing="best_fit", do_eval=True, **METHODS[method])
    here(TRAIN, command).succeeded()
    output.rename(whole)
    rewind(whole, output, 2)
    here(TRAIN, command).succeeded()
    assert differences(whole, output) == []
    expected = {
        "prompt_tuning": {"model.prompt"},
        "p_tuning": {"model.prompt"},
        "prefix_tuning": {"model.prefix.0", "model.prefix.1"},
    }.get(method)
    assert expected is None or names_of(output) == expected
    has_encoder = method in ("p_tuning", "prefix_tuning")
    assert (names_of(output / "checkpoint-4") != names_of(output)) == has_encoder
    loaded = here(
        TRAIN,
        lab.write(tmp_path / "again", lora=None, adapter=method, lora_path=str(output), do_train=False, do_eval=True),
    ).succeeded()
    assert "its own numbers and targets hold" in loaded.out
    ours, theirs = read_json(tmp_path / "again" / "eval_results.json"), read_json(output / "eval_results.json")
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=1e-6)


def test_a_result_answers_is_trained_on_and_is_not_merged(lab, tmp_path):
    output = tmp_path / "out"
    keys = dict(lora=None, prefix_tuning=True, num_prefix_tokens=4, learning_rate=None)
    said = lab.train(output, **keys, do_predict=True).out
    assert "the default of adapter prefix_tuning" in said and "num_virtual_tokens 4" in said
    words = ("--model_name_or_path", lab.model, "--device", "cpu")
    answer = ("--prompt", "the cat :", "--max_new_tokens", "6")
    ours = here(GENERATE, *words, "--lora_path", output, *answer).succeeded().out
    steps = here(GENERATE, *words, "--lora_path", output / "checkpoint-4", *answer).succeeded().out
    assert ours == steps  # with the MLP, and with what it computed
    lab.train(tmp_path / "more", lora=None, prefix_tuning=True, prefix_path=str(output), max_steps=1)
    assert names_of(tmp_path / "more") == names_of(output)
    here(MERGE, *words, "--lora_path", output, "--output_path", tmp_path / "merged").refused(
        "keys and values stand before the text in every layer", "keep the base model"
    )


def test_max_length_holds_the_virtual_tokens_too(lab, tmp_path):
    keys = dict(lora=None, adapter="prompt_tuning", num_virtual_tokens=20, packing="best_fit", max_steps=1)
    said = lab.train(tmp_path / "out", **keys).out
    assert "at most 44  (max_length 64 less 20 virtual tokens before every sample)" in said
    assert "rows of 64" in said
    here(TRAIN, lab.write(tmp_path / "short", **{**keys, "num_virtual_tokens": 40})).refused(
        "max_length 64 holds 40 virtual tokens and 24 tokens of a text, and 33 are needed"
    )


def test_a_table_of_positions_that_the_virtual_tokens_fill_is_refused_before_training(lab, model_folder, tmp_path):
    keys = dict(lora=None, adapter="prefix_tuning", model_name_or_path=str(model_folder("gpt2", n_positions=32)))
    here(TRAIN, lab.write(tmp_path / "out", **keys)).refused("128 virtual tokens leave no position for a text")
    here(TRAIN, lab.write(tmp_path / "out", **keys, num_virtual_tokens=20)).refused(
        "tokens behind 20 virtual ones, and the model has vectors for 32 positions", "set max_length to 12"
    )


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(adapter="reft", position="7f"), "allowed are f7 (the first 7 tokens of the prompt), l7"),
        (dict(adapter="reft", stage="pretrain"), "edits the prompts of samples, and stage pretrain has none"),
        (dict(adapter="reft", layers="0,9"), "layers names [9], and the model has 2"),
        (dict(adapter="p_tuning", encoder_dropout=0.1), "the encoder is an MLP, which has none"),
        (dict(adapter="prompt_tuning", prompt_tuning_init="text"), "prompt_tuning_init_text is missing"),
        (dict(adapter="prompt_tuning", lora_target_modules=["q_proj"]), "adapter prompt_tuning has no such key"),
        (dict(adapter="prefix_tuning", prefix_projection=False, encoder_hidden_size=4), "there is no encoder"),
    ],
)
def test_what_contradicts_itself_is_refused(lab, tmp_path, keys, words):
    here(TRAIN, lab.write(tmp_path / "out", lora=None, **keys)).refused(words)
