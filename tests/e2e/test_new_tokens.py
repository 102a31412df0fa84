"""Runs with new special tokens, typed as a user types them: trained, resumed, merged and answered alike."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import tiny
from tests.e2e.commands import GENERATE, MERGE, TRAIN, differences, here, read_json, rewind

TOKENS = ["<|ask|>", "<|done|>"]
EMBEDDING = "llama.embed_tokens.weight"
LORA, FULL = dict(lora=True), dict(lora=None, learning_rate=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    rows = [{"src": f"<|ask|>{row['src']}", "tgt": f"{row['tgt']}<|done|>"} for row in tiny.rows(18, 1)]
    tiny.write_lines(folder / "train.json", rows[:14])
    tiny.write_lines(folder / "dev.json", rows[14:])
    return folder


@pytest.fixture
def task(data):
    return dict(dataset_name_or_path=str(data), new_special_tokens=TOKENS)


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_resuming_ends_as_the_uninterrupted_run(lab, task, tmp_path, method):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, **task, **method, do_eval=True)
    said = here(TRAIN, command).succeeded()
    output.rename(whole)
    rewind(whole, output, 2)
    here(TRAIN, command).succeeded()
    assert differences(whole, output) == []
    assert "<|ask|> 96, <|done|> 97" in said.out and "96 -> 98" in said.out
    assert ("new rows         trained  (beside the adapter" in said.out) == (method is LORA)


def test_a_full_run_trains_the_new_rows_and_writes_a_model_with_its_tokenizer(lab, task, tmp_path):
    lab.train(tmp_path / "out", **task, **FULL)
    arrays = load_file(str(tmp_path / "out" / "model.safetensors"))
    embedding = arrays["llama.embed_tokens.weight"]
    assert embedding.shape[0] == 98 == read_json(tmp_path / "out" / "config.json")["vocab_size"]
    assert (embedding[96] != embedding[97]).any()
    assert arrays["lm_head.weight"].shape[1] == 98
    again = lab.train(
        tmp_path / "again", **{**task, **FULL, "model_name_or_path": str(tmp_path / "out"), "max_steps": 1}
    )
    assert "there already" in again.out and "->" not in again.out.split("vocabulary", 1)[1].split("model\n", 1)[0]


def test_base_plus_adapter_and_the_merged_model_answer_alike(lab, task, tmp_path):
    lab.train(tmp_path / "out", **task, do_predict=True)
    merged = tmp_path / "merged"
    here(
        MERGE, "--model_name_or_path", lab.model, "--lora_path", tmp_path / "out", "--output_path", merged,
        "--format", "hf", "--device", "cpu",
    ).succeeded()  # fmt: skip
    common = ("--prompt", "<|ask|>the cat :", "--device", "cpu", "--max_new_tokens", "8")
    one = here(GENERATE, "--model_name_or_path", lab.model, "--lora_path", tmp_path / "out", *common).succeeded()
    other = here(GENERATE, "--model_name_or_path", merged, *common).succeeded()
    assert one.out == other.out
    weights = load_file(str(merged / "model.safetensors"))
    base = load_file(str(lab.model / "model.safetensors"))[EMBEDDING]
    new = weights["model.embed_tokens.weight"][96:]
    trained = load_file(str(tmp_path / "out" / "adapter.safetensors"))
    np.testing.assert_array_equal(new, trained[f"{EMBEDDING}.new_rows"])
    assert (new[0] != new[1]).any() and (new != base.mean(axis=0)).any()
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"][:96], base)


def test_an_adapter_with_new_tokens_is_trained_on_with_its_own_tokenizer_and_more_tokens(lab, task, tmp_path):
    lab.train(tmp_path / "out", **task)
    more = {**task, "new_special_tokens": [*TOKENS, "<|more|>"], "lora_path": str(tmp_path / "out"), "max_steps": 1}
    said = lab.train(tmp_path / "more", **more)
    assert "<|more|> 98" in said.out and "98 -> 99" in said.out
    assert read_json(tmp_path / "more" / "adapter.json")["new_rows"] == dict(
        first=96, end=99, vocab_size=99, base_size=96
    )


def test_tokens_that_a_tokenizer_got_before_need_resize_vocab(lab, task, tmp_path):
    from paddle_sft.models.new_tokens import add_special_tokens

    add_special_tokens(lab.model, tmp_path / "tokenizer", TOKENS)
    settings = {**task, **FULL, "new_special_tokens": None, "tokenizer_name_or_path": str(tmp_path / "tokenizer")}
    here(TRAIN, lab.write(tmp_path / "out", **settings)).refused(
        "gives ids up to 97, the model knows 96", "resize_vocab"
    )
    said = lab.train(tmp_path / "out", **settings, resize_vocab=True)
    assert "96 -> 98" in said.out


@pytest.mark.parametrize(
    "changes, phrases",
    [
        (dict(new_special_tokens=["<a>", "<a>"]), ["'<a>' twice"]),
        (dict(new_special_tokens=["s"]), ["'s', which is token", "of the vocabulary already"]),
        (dict(resize_vocab=False), ["resize_vocab is false; leave resize_vocab out"]),
    ],
)
def test_what_can_not_be_meant_is_refused(lab, task, tmp_path, changes, phrases):
    here(TRAIN, lab.write(tmp_path / "out", **{**task, **changes})).refused(*phrases)


def test_spare_rows_are_used_and_that_is_said(lab, task, tmp_path, model_folder):
    base = tmp_path / "base"
    shutil.copytree(model_folder(vocab_size=104), base)
    said = lab.train(tmp_path / "out", **{**task, **FULL, "model_name_or_path": str(base), "max_steps": 1})
    assert "104, unchanged" in said.out and "spare ones: rows 96 to 97 set to the mean" in said.out
    assert read_json(tmp_path / "out" / "config.json")["vocab_size"] == 104
