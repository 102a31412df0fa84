"""The quickstart's tokenizer: nothing is unknown, ids are where the config says, equal text gives equal bytes."""

from __future__ import annotations

import json

import pytest
import quickstart_data
import quickstart_tokenizer

sentencepiece = pytest.importorskip("sentencepiece")


@pytest.fixture(scope="module")
def folder(quickstart_folder):
    path = str(quickstart_folder)
    assert quickstart_tokenizer.main(["--data_dir", path, "--output_dir", path]) == 0
    return quickstart_folder


@pytest.fixture(scope="module")
def pieces(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer" / "tokenizer.model"))


@pytest.mark.parametrize(
    "text",
    ["def f(x):\n\treturn  x", "    indented", "two  spaces ", "h\u00e9llo \u4e16\u754c \U0001f642", "a\x00b", "12345"],
)
def test_any_text_comes_back_as_it_was(pieces, text):
    ids = pieces.encode(text)
    assert pieces.unk_id() not in ids
    assert pieces.decode(ids) == text


def test_special_ids_are_those_of_the_model_config(folder, pieces):
    config = json.loads((folder / "model_config" / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == pieces.get_piece_size() == 1000
    ids = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id(), pieces.pad_id())
    assert ids == (0, config["bos_token_id"], config["eos_token_id"], config["pad_token_id"])
    assert len(set(ids)) == 4
    for role, piece in json.loads((folder / "tokenizer" / "special_tokens_map.json").read_text()).items():
        assert pieces.piece_to_id(piece) == getattr(pieces, role.replace("_token", "_id"))()


def test_only_train_text_is_read(tmp_path):
    for kind, row in (("pretrain", {"text": "seen\n\nhere"}), ("data", {"src": "s", "tgt": "t"})):
        quickstart_data.write_lines(tmp_path / kind / "train.json", [row])
        quickstart_data.write_lines(tmp_path / kind / "dev.json", [{key: "held out" for key in row}])
    assert list(quickstart_tokenizer.train_lines(tmp_path)) == ["seen", "here", "s", "t"]


def test_without_data_it_says_which_command_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="quickstart_data.py"):
        list(quickstart_tokenizer.train_lines(tmp_path))


def test_equal_text_gives_an_equal_tokenizer(folder):
    model = quickstart_tokenizer.train_tokenizer(quickstart_tokenizer.train_lines(folder))
    assert model == (folder / "tokenizer" / "tokenizer.model").read_bytes()


def test_paddlenlp_loads_the_folder_with_the_same_ids(folder, pieces):
    transformers = pytest.importorskip("paddlenlp.transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    assert len(tokenizer) == 1000
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    row = json.loads((folder / "data" / "dev.json").read_text(encoding="utf-8").splitlines()[0])
    for text in (row["src"], row["tgt"], "h\u00e9llo \u4e16\u754c"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == pieces.encode(text)
        assert tokenizer(text)["input_ids"] == [1] + ids
