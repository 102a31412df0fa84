from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from paddle_sft.core.errors import ModelError
from paddle_sft.core.log import get_logger
from paddle_sft.models.tokenizers import copy_tokenizer, fill_token, load_tokenizer
from paddle_sft.models.tokenizing.folder import read_folder
from paddle_sft.models.tokenizing.tokenizer import build_tokenizer
from tests import tiny
from tests.parity import tokenizer_folders as folders
from tests.parity.mixed_lines import mixed_lines

LINES = mixed_lines()[::5]


@pytest.fixture
def folder(tmp_path):
    return tiny.make_tokenizer(tmp_path / "tokenizer")


def change(folder, **changes):
    """Change keys of tokenizer_config.json; ... takes one away."""
    file = folder / "tokenizer_config.json"
    content = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    folders.write(file, {key: value for key, value in content.items() if value is not ...})


def made(tmp_path, name, **changes):
    folder = folders.make_folder(tmp_path, name)
    change(folder, **changes)
    return folder


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model"])
def test_a_llama_tokenizer_is_read_under_either_name_of_its_file(folder, name, tiny_tokenizer):
    (folder / "tokenizer.model").rename(folder / name)
    tokenizer = load_tokenizer(folder)
    text = "red cat runs under the house :"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)


def test_short_rows_are_filled_with_pad_or_else_with_the_end_token():
    assert fill_token(SimpleNamespace(pad_token_id=0, eos_token_id=2)) == 0  # 0 is an id like any other
    assert fill_token(SimpleNamespace(pad_token_id=None, eos_token_id=2)) == 2


@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model"])
def test_a_copied_llama_tokenizer_is_there_under_both_names(folder, tmp_path, name):
    (folder / "tokenizer.model").rename(folder / name)
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    original = (folder / name).read_bytes()
    assert (tmp_path / "copy" / "tokenizer.model").read_bytes() == original
    assert (tmp_path / "copy" / "sentencepiece.bpe.model").read_bytes() == original


def test_files_are_copied_byte_for_byte_and_nothing_else_is(folder, tmp_path):
    (folder / "added_tokens.json").write_text('{ "odd" :  1 }')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text("{}")
    (folder / "model.safetensors").write_text("not a tokenizer's")
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert not {"model.safetensors", "tokenizer.json"} & set(copied)
    assert {"added_tokens.json", "chat_template.jinja", "generation_config.json", "tokenizer_config.json"} < set(copied)
    assert all(copied[path.name] == path.read_bytes() for path in folder.iterdir() if path.name in copied)


def test_another_familys_file_keeps_its_one_name(folder, tmp_path):
    change(folder, tokenizer_class="GemmaTokenizer")
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    assert not (tmp_path / "copy" / "sentencepiece.bpe.model").exists()


def test_what_transformers_would_read_otherwise_is_copied_with_a_file_that_says_our_ids(tmp_path):
    folder = made(tmp_path, "llama tokenizer.model, legacy")
    folders.write(folder / "config.json", {"model_type": "mistral"})
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    written = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json"))
    assert [one.ids for one in written.encode_batch(LINES)] == load_tokenizer(folder)(LINES)["input_ids"]
    shutil.copy(folder / "config.json", tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy")(LINES) == load_tokenizer(folder)(LINES)


def test_a_copy_over_the_same_files_is_harmless(folder, tmp_path):
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    folder.mkdir()
    copy_tokenizer(folder, tmp_path / "copy")  # an adapter folder without a tokenizer takes nothing away
    assert (tmp_path / "copy" / "tokenizer.model").is_file()


def test_loading_changes_nothing_in_the_folder(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    load_tokenizer(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ---- choices that are said ------------------------------------------------------------------------------------------


def test_a_begin_token_that_nobody_asked_for_is_not_put_and_that_is_said(folder):
    change(folder, add_bos_token=...)
    tokenizer = build_tokenizer(read_folder(folder))
    assert tokenizer("red")["input_ids"][0] != 1
    assert any("no add_bos_token" in note for note in tokenizer.notes)


def test_paddlenlps_own_llama_folder_begins_with_the_begin_token(folder, tmp_path):
    change(folder, add_bos_token=...)
    (folder / "tokenizer.model").rename(folder / "sentencepiece.bpe.model")
    ids = load_tokenizer(folder)("red")["input_ids"]
    assert ids[0] == 1
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy")("red")["input_ids"] == ids


def test_a_space_that_transformers_leaves_out_is_put_and_that_is_said(folder):
    folders.write(folder / "config.json", {"model_type": "phi3"})
    tokenizer = build_tokenizer(read_folder(folder))
    assert tokenizer.convert_ids_to_tokens(tokenizer("red")["input_ids"])[1].startswith("\u2581")
    assert any("transformers 5 puts no space" in note for note in tokenizer.notes)


@pytest.mark.parametrize("model_type, is_said", [("qwen2", True), ("qwen3", False), ("gpt2", False)])
def test_a_llama_tokenizer_of_another_familys_model_is_read_as_it_is_named(folder, model_type, is_said):
    """transformers 5 does so, too, but makes a Qwen2Tokenizer of what stands in a qwen2 model, which loses words."""
    alone = load_tokenizer(folder)
    folders.write(folder / "config.json", {"model_type": model_type})
    tokenizer = build_tokenizer(read_folder(folder))
    assert tokenizer(LINES) == alone(LINES)
    assert any("can't read tokenizer.model in a model of type" in note for note in tokenizer.notes) == is_said


def test_bloom_without_its_file_is_what_its_file_says(tmp_path):
    written = load_tokenizer(made(tmp_path, "bloom tokenizer.json"))
    folder = tmp_path / "older"
    folder.mkdir()
    folders.bloom_file(folder, keep=False)
    assert not (folder / "tokenizer.json").exists()
    assert load_tokenizer(folder)(LINES) == written(LINES)


def test_an_unknown_class_is_taken_as_its_file_is_written_and_that_is_said(tmp_path):
    tokenizer = build_tokenizer(read_folder(made(tmp_path, "bloom tokenizer.json", tokenizer_class="NewTokenizer")))
    assert any("NewTokenizer" in note for note in tokenizer.notes)
    assert tokenizer(LINES) == load_tokenizer(made(tmp_path / "known", "bloom tokenizer.json"))(LINES)


def test_a_class_that_only_paddlenlp_has_is_read_by_paddlenlp(folder, monkeypatch, caplog):
    change(folder, tokenizer_class="RemBertTokenizer", eos_token="[SEP]", unk_token="<unk>")
    (folder / "tokenizer.model").rename(folder / "sentencepiece.model")
    monkeypatch.setattr(get_logger(), "propagate", True)
    with caplog.at_level("INFO", get_logger().name):
        tokenizer = load_tokenizer(folder)
    assert type(tokenizer).__name__ == "RemBertTokenizer"
    assert "is PaddleNLP's RemBertTokenizer, whose ids were not compared" in caplog.text


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["tokenizer.model", "everything"])
def test_a_folder_without_a_tokenizer_says_what_to_give(folder, gone):
    for path in list(folder.iterdir()):
        if gone in (path.name, "everything"):
            path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer that can be read.*tokenizer.json.*tokenizer_name_or_path"):
        load_tokenizer(folder)


def test_a_class_that_nobody_has_says_what_to_give(folder):
    change(folder, tokenizer_class="NoSuchTokenizer")
    with pytest.raises(ModelError, match="PaddleNLP can read a NoSuchTokenizer.*tokenizer_name_or_path"):
        load_tokenizer(folder)


def test_a_tokenizer_without_an_end_token_is_refused(folder):
    change(folder, eos_token=None)
    with pytest.raises(ModelError, match="has no eos_token; set it in tokenizer_config.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "name", ["llama tokenizer.model", "llama tokenizer.json", "qwen2 vocab.json", "opt vocab.json, older"]
)
def test_an_added_token_at_another_id_than_listed_is_refused(tmp_path, name):
    """The vocabulary would put it at the next free id; the embedding stands at the listed one."""
    folder = folders.make_folder(tmp_path, name.replace(", older", ""))
    if name.endswith("older"):
        folders.write(folder / "added_tokens.json", {"<new>": 5000})
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        change(
            folder, added_tokens_decoder={**settings.get("added_tokens_decoder", {}), "5000": folders.token("<new>")}
        )
    with pytest.raises(ModelError, match="list '<new>' as token 5000, and the vocabulary makes it token"):
        load_tokenizer(folder)


def test_a_token_that_only_tokenizer_json_lists_is_refused_where_transformers_would_split_it(tmp_path):
    folder = made(tmp_path, "qwen3 tokenizer.json")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    kept = {key: one for key, one in settings["added_tokens_decoder"].items() if one["content"] != "</think>"}
    change(folder, added_tokens_decoder=kept)
    with pytest.raises(ModelError, match="list '</think>' as token.*makes it no token"):
        load_tokenizer(folder)


def test_a_unigram_model_is_refused_because_transformers_makes_bpe_of_it(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["red cat runs under the tree"] * 20), model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=30, hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    folders.write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    with pytest.raises(ModelError, match="of another kind than BPE.*tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_pre_tokeniser_that_would_be_mended_while_loading_is_refused(tmp_path):
    from tokenizers import models, pre_tokenizers

    large = Tokenizer(models.BPE({f"t{number}": number for number in range(100_001)}, []))
    large.pre_tokenizer = pre_tokenizers.ByteLevel()
    large.save(str(tmp_path / "tokenizer.json"))
    folders.write(tmp_path / "config.json", {"model_type": "mistral", "transformers_version": "4.57.1"})
    folders.write(tmp_path / "tokenizer_config.json", {"eos_token": "t1", "fix_mistral_regex": True})
    with pytest.raises(ModelError, match="fix_mistral_regex is true.*save the tokenizer with transformers 5"):
        load_tokenizer(tmp_path)
    change(tmp_path, fix_mistral_regex=False)
    assert load_tokenizer(tmp_path).eos_token_id == 1


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\xff", '{"a":' * 5000])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=name):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", ['{"model": {}}', '{"model": {"type": "Other"}}', '{"version": "9"}'])
def test_a_tokenizer_json_that_the_library_can_not_read_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="can't be read.*newer release of the tokenizers library"):
        load_tokenizer(folder)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("01<\u00e9", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["content", "0", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_keys = st.sampled_from(
    "tokenizer_class bos_token eos_token unk_token image_token added_tokens_decoder additional_special_tokens legacy "
    "extra_special_tokens model_specific_special_tokens add_bos_token add_prefix_space split_special_tokens".split()
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(_keys, _values, min_size=1, max_size=3), old=st.dictionaries(_keys, _values, max_size=2))
def test_odd_values_give_a_tokenizer_or_a_clean_error(folder, changes, old):
    settings = {"tokenizer_class": "LlamaTokenizer", **changes}
    folders.write(folder / "tokenizer_config.json", settings)
    folders.write(folder / "special_tokens_map.json", old)
    files = read_folder(folder)
    if files.is_paddlenlps_own:
        return
    try:
        tokenizer = build_tokenizer(files)
    except ModelError:
        return
    assert tokenizer.decode(tokenizer("red cat")["input_ids"], skip_special_tokens=True).split() == ["red", "cat"]
