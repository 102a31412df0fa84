"""New special tokens in a tokenizer's files: read by all, and nothing else in them changes."""

from __future__ import annotations

import json

import pytest

from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.new_tokens import add_special_tokens
from paddle_sft.models.tokenizers import load_tokenizer
from tests import tiny
from tests.parity.tokenizer_folders import make_folder

TOKENS = ["<|ask|>", "[答]"]
TEXT = "the <|ask|> cat[答] sings<|ask|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_tokens_get_the_next_ids_and_are_found_in_texts(folder, tmp_path):
    found = add_special_tokens(folder, tmp_path, TOKENS)
    assert found.ids == {"<|ask|>": 96, "[答]": 97} and not found.there and (found.first, found.end) == (96, 98)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer(TEXT)["input_ids"]
    assert [number for number in ids if number >= 96] == [96, 97, 96]
    assert "<|ask|>" not in tokenizer.decode(ids, skip_special_tokens=True)
    plain = "red cat over the tree"
    assert tokenizer(plain) == load_tokenizer(folder)(plain)


def test_paddlenlp_reads_the_folder_with_the_same_ids(folder, tmp_path):
    from paddlenlp.transformers import AutoTokenizer

    add_special_tokens(folder, tmp_path, TOKENS)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    assert theirs.convert_tokens_to_ids(TOKENS) == [96, 97]
    assert [number for number in theirs(TEXT)["input_ids"] if number >= 96] == [96, 97, 96]


def test_of_a_tokenizer_json_only_the_list_of_added_tokens_changes(tmp_path):
    folder = make_folder(tmp_path, "qwen2 tokenizer.json")
    text = json.dumps(read(folder / "tokenizer.json"), indent=3, ensure_ascii=False)  # as nobody writes it
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    close = text.index("]", text.index('"added_tokens"'))
    found = add_special_tokens(folder, tmp_path / "new", TOKENS)
    after = (tmp_path / "new" / "tokenizer.json").read_text(encoding="utf-8")
    added = read(tmp_path / "new" / "tokenizer.json")["added_tokens"]
    assert {one["content"]: one["id"] for one in added[-2:]} == found.ids and all(one["special"] for one in added[-2:])
    assert after.startswith(text[:close].rstrip()) and after.endswith(text[close:])
    for path in folder.iterdir():
        if path.name not in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            assert path.read_bytes() == (tmp_path / "new" / path.name).read_bytes(), path.name


def test_tokens_that_are_special_already_stay_as_they_are(folder, tmp_path):
    first = add_special_tokens(folder, tmp_path / "one", TOKENS[:1])
    again = add_special_tokens(tmp_path / "one", tmp_path / "two", TOKENS)
    assert again.there == ("<|ask|>",) and again.ids == {"[答]": 97} and first.ids == {"<|ask|>": 96}
    assert not add_special_tokens(tmp_path / "two", tmp_path / "three", TOKENS).ids
    before, after = (read(tmp_path / name / "tokenizer_config.json") for name in ("two", "three"))
    assert before == after


@pytest.mark.parametrize(
    "tokens, words",
    [
        ([""], "an empty token"),
        (["  "], "an empty token"),
        (["<a>", "<b>", "<a>"], "'<a>' twice"),
        ([" <a>"], "white space at an end"),
    ],
)
def test_texts_that_are_no_tokens_are_refused(folder, tmp_path, tokens, words):
    with pytest.raises(ArgumentError, match=words):
        add_special_tokens(folder, tmp_path, tokens)


def test_an_ordinary_token_can_not_become_a_special_one(folder, tmp_path):
    vocabulary = load_tokenizer(folder).get_vocab()
    piece = next(piece for piece in vocabulary if piece.isalpha() and len(piece) > 1)
    with pytest.raises(ArgumentError, match=f"'{piece}', which is token {vocabulary[piece]} of the vocabulary"):
        add_special_tokens(folder, tmp_path, [piece])
