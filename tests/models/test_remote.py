from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.models import remote
from paddle_sft.models.remote import TEXT_FILES, download, local_folder
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME


@pytest.fixture
def hub(tmp_path):
    """A model somewhere else: `hub(names)` gives (fetch, list of what was asked for)."""

    def make(*names, shards=()):
        asked = []
        for name in names:
            text = json.dumps({"weight_map": dict(enumerate(shards))}) if name == INDEX_NAME else "{}"
            (tmp_path / name).write_text(text)

        def fetch(name):
            asked.append(name)
            return str(tmp_path / name) if name in names else None

        return fetch, asked

    return make


@pytest.mark.parametrize("weights", [WEIGHTS_NAME, PDPARAMS_NAME])
def test_a_model_of_one_file_is_fetched_with_config_and_tokenizer(hub, tmp_path, weights):
    fetch, asked = hub("config.json", weights, "tokenizer.json")
    assert download(fetch) == tmp_path
    assert {"config.json", weights, *TEXT_FILES} <= set(asked)


def test_of_two_kinds_of_weights_the_safe_one_is_fetched_alone(hub):
    fetch, asked = hub("config.json", WEIGHTS_NAME, PDPARAMS_NAME)
    download(fetch)
    assert PDPARAMS_NAME not in asked


def test_every_shard_of_an_index_is_fetched(hub, tmp_path):
    shards = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    fetch, asked = hub("config.json", INDEX_NAME, *shards, shards=shards * 2)
    assert download(fetch) == tmp_path
    assert sorted(name for name in asked if name in shards) == shards  # each once


def test_a_shard_that_is_not_there_is_named(hub):
    fetch, _ = hub("config.json", INDEX_NAME, "a.safetensors", shards=["a.safetensors", "b.safetensors"])
    with pytest.raises(ModelError, match="shards that are not there: b.safetensors"):
        download(fetch)


@pytest.mark.parametrize(
    "names, words",
    [((WEIGHTS_NAME,), "no config.json"), (("config.json", "tokenizer.json"), f"none of {WEIGHTS_NAME}")],
)
def test_a_model_without_config_or_weights_is_refused(hub, names, words):
    with pytest.raises(ModelError, match=words):
        download(hub(*names)[0])


def test_a_folder_here_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    assert local_folder(str(tmp_path / "model")) == tmp_path / "model"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_folder("~/model") == tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    assert local_folder("model", from_hf_hub=True) == Path("model")  # what is here needs no network


def test_a_path_that_is_not_there_is_answered_with_the_nearest_folder(tmp_path):
    (tmp_path / "llama-7b").mkdir()
    with pytest.raises(ModelError, match=r"no model folder .*lama-7b; did you mean .*llama-7b\?"):
        local_folder(str(tmp_path / "lama-7b"))
    with pytest.raises(ModelError, match="folders in .*: llama-7b"):
        local_folder(str(tmp_path / "xyz"))
    with pytest.raises(ModelError, match="nowhere is no folder either"):
        local_folder(str(tmp_path / "nowhere" / "model"))


@pytest.mark.parametrize("name", ["./model", "../model", "~/model", "models/", "a/b/c"])
def test_what_looks_like_a_path_never_goes_to_a_hub(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "_paddlenlp_file", lambda *given: pytest.fail("asked the registry"))
    with pytest.raises(ModelError, match="no model folder"):
        local_folder(name)


@pytest.mark.parametrize("name", ["some-model", "owner/some-model"])
def test_a_name_is_looked_up_where_the_user_said(monkeypatch, tmp_path, hub, name):
    monkeypatch.chdir(tmp_path)
    fetch, _ = hub("config.json", WEIGHTS_NAME)
    asked = []
    monkeypatch.setattr(remote, "_paddlenlp_file", lambda *given: (asked.append(given[::2]), fetch(given[1]))[1])
    monkeypatch.setattr(remote, "_from_hugging_face", lambda given: Path("hub") / given)
    assert local_folder(name) == tmp_path and set(asked) == {(name, False)}
    asked.clear()
    assert local_folder(name, from_aistudio=True) == tmp_path and set(asked) == {(name, True)}
    assert local_folder(name, from_hf_hub=True) == Path("hub") / name


@pytest.mark.parametrize("error", [OSError("no route\nto host"), AssertionError(), KeyError("x")])
def test_whatever_a_hub_raises_becomes_an_answer(monkeypatch, tmp_path, error):
    monkeypatch.chdir(tmp_path)

    def fail(*given):
        raise error

    monkeypatch.setattr(remote, "_paddlenlp_file", fail)
    with pytest.raises(
        ModelError, match="'some-model' is no folder here, and PaddleNLP's registry did not give it.*folder"
    ):
        local_folder("some-model")
