"""What a tokenizer does with texts and ids; whether the ids are right is asked in tests/parity/test_tokenizers.py."""

from __future__ import annotations

import os
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from paddle_sft.models.tokenizers import load_tokenizer
from tests.parity import tokenizer_folders as folders
from tests.parity.mixed_lines import mixed_lines

LINES = mixed_lines()[::5]


def test_words_are_cut_as_sentencepiece_cuts_them(tmp_path):
    """Where the two disagree (a text that begins with a space), transformers is followed: docs/tokenizers.md."""
    import sentencepiece

    folder = folders.make_folder(tmp_path, "llama tokenizer.model")
    tokenizer = load_tokenizer(folder)
    original = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    special = [token.content for token in tokenizer.added_tokens_decoder.values()]
    texts = [
        text
        for text in LINES
        if text[0] not in " \u2581" and "\x00" not in text and not any(s in text for s in special)
    ]
    assert len(texts) > 100
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == original.encode(texts)


@pytest.mark.parametrize("name", ["llama tokenizer.json, legacy", "qwen3 tokenizer.json, added tokens"])
def test_a_list_gives_what_its_texts_give_one_by_one(tmp_path, name):
    tokenizer = load_tokenizer(folders.make_folder(tmp_path, name))
    for special in (False, True):
        together = tokenizer(LINES, add_special_tokens=special)["input_ids"]
        assert together == [tokenizer(text, add_special_tokens=special)["input_ids"] for text in LINES]
    assert [ids for ids, _ in tokenizer.encode_pieces([[text] for text in LINES])] == tokenizer(LINES, False)[
        "input_ids"
    ]
    assert tokenizer([])["input_ids"] == [] and tokenizer.encode_pieces([]) == []


@pytest.fixture(scope="module")
def pieced(tmp_path_factory):
    root = tmp_path_factory.mktemp("pieced")
    return {name: load_tokenizer(folders.make_folder(root, name)) for name in PIECED}


_pieces = st.lists(
    st.sampled_from([*LINES, "", "", "\u00e9\u5929", "\U0001f642", " ", "e\u0301", "\u0301"]), max_size=6
)
PIECED = ["llama tokenizer.model, legacy", "llama tokenizer.json", "qwen2 tokenizer.json", "phi3 tokenizer.json"]


@settings(max_examples=200, deadline=None)
@given(pieces=_pieces, name=st.sampled_from(PIECED))
@example(pieces=["red c", "at\U0001f642", "", "\u0301 <|end|>", "  \n", "tree"], name=PIECED[3])
@example(pieces=["e", "\u0301", "\u0327"], name=PIECED[2])
@example(pieces=[], name=PIECED[0])
def test_each_piece_of_a_text_has_the_tokens_that_hold_its_characters(pieced, pieces, name):
    tokenizer = pieced[name]
    ((ids, spans),) = tokenizer.encode_pieces([pieces])
    text = "".join(pieces)
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    offsets = tokenizer.pipeline.encode(text, add_special_tokens=False).offsets
    position = 0
    for piece, (start, end) in zip(pieces, spans):
        stop = position + len(piece)
        held = {index for index, (low, high) in enumerate(offsets) if low < stop and high > position}
        assert held <= set(range(start, end))
        assert all(offsets[index][0] == offsets[index][1] for index in set(range(start, end)) - held)
        position = stop
    assert sorted({index for start, end in spans for index in range(start, end)}) == list(range(len(ids)))


def test_the_tokenizer_of_another_process_gives_the_same_ids(tmp_path):
    tokenizer = load_tokenizer(folders.make_folder(tmp_path, "phi3 tokenizer.json"))
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied(LINES) == tokenizer(LINES)
    assert (copied.special_tokens_map, len(copied)) == (tokenizer.special_tokens_map, len(tokenizer))


def test_a_forked_process_encodes_on_one_processor_and_says_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    tokenizer = load_tokenizer(folders.make_folder(tmp_path, "gpt2 vocab.json"))
    here = tokenizer(LINES)["input_ids"]  # on all processors: its threads are gone in the fork
    child = os.fork()
    if not child:
        os._exit(0 if os.environ["TOKENIZERS_PARALLELISM"] == "false" and tokenizer(LINES)["input_ids"] == here else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert "forked" not in capfd.readouterr().err


def test_unknown_texts_are_no_tokens(tmp_path):
    tokenizer = load_tokenizer(folders.make_folder(tmp_path, "llama tokenizer.json"))
    assert tokenizer.convert_tokens_to_ids(["<s>", "no such token"]) == [1, tokenizer.unk_token_id]
    other = load_tokenizer(folders.make_folder(tmp_path, "qwen2 tokenizer.json"))
    assert other.unk_token is None and other.convert_tokens_to_ids("no such token") is None
    assert other.get_vocab()["<|im_end|>"] == other.eos_token_id == other.vocab_size + 2


def test_spaces_before_punctuation_go_only_where_pieces_are_no_bpes(tmp_path):
    from tokenizers import models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"red": 0, ".": 1, "<e>": 2}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>", "clean_up_tokenization_spaces": True}
    folders.write(tmp_path / "tokenizer_config.json", settings)
    tokenizer = load_tokenizer(tmp_path)
    assert (
        tokenizer.decode([0, 1]) == "red." and tokenizer.decode([0, 1], clean_up_tokenization_spaces=False) == "red ."
    )
    bpe = load_tokenizer(folders.make_folder(tmp_path, "llama3 tokenizer.json"))  # whose config asks for it, too
    assert bpe.decode(bpe("red .")["input_ids"], skip_special_tokens=True) == "red ."
