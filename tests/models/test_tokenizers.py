from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.models.tokenizers import copy_tokenizer, fill_token, load_tokenizer
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    return tiny.make_tokenizer(tmp_path / "tokenizer")


def settings(folder, **changes):
    file = folder / "tokenizer_config.json"
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model"])
def test_a_llama_tokenizer_is_read_under_either_name_of_its_file(folder, name, tiny_tokenizer):
    (folder / "tokenizer.model").rename(folder / name)
    tokenizer = load_tokenizer(folder)
    text = "red cat runs under the house :"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)


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
    assert "model.safetensors" not in copied
    assert {"added_tokens.json", "chat_template.jinja", "generation_config.json", "tokenizer_config.json"} < set(copied)
    assert all(copied[path.name] == path.read_bytes() for path in folder.iterdir() if path.name in copied)


def test_another_familys_file_keeps_its_one_name(folder, tmp_path):
    settings(folder, tokenizer_class="GemmaTokenizer")
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    assert not (tmp_path / "copy" / "sentencepiece.bpe.model").exists()


@pytest.mark.parametrize("gone", ["tokenizer.model", "everything"])
def test_a_folder_without_a_tokenizer_says_what_to_give(folder, gone):
    for path in list(folder.iterdir()):
        if gone in (path.name, "everything"):
            path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer that PaddleNLP can read.*tokenizer_name_or_path"):
        load_tokenizer(folder)


def test_a_tokenizer_without_an_end_token_is_refused(folder, monkeypatch):
    import paddlenlp.transformers as transformers

    fake = SimpleNamespace(from_pretrained=lambda *given, **more: SimpleNamespace(eos_token_id=None))
    monkeypatch.setattr(transformers, "AutoTokenizer", fake)
    with pytest.raises(ModelError, match="has no eos_token; set it in tokenizer_config.json"):
        load_tokenizer(folder)


def test_loading_changes_nothing_in_the_folder(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    load_tokenizer(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_short_rows_are_filled_with_pad_or_else_with_the_end_token():
    assert fill_token(SimpleNamespace(pad_token_id=0, eos_token_id=2)) == 0  # 0 is an id like any other
    assert fill_token(SimpleNamespace(pad_token_id=None, eos_token_id=2)) == 2


def test_a_copy_over_the_same_files_is_harmless(folder, tmp_path):
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    folder.mkdir()
    copy_tokenizer(folder, tmp_path / "copy")  # an adapter folder without a tokenizer takes nothing away
    assert (tmp_path / "copy" / "tokenizer.model").is_file()
