from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import ModelError
from paddle_sft.models.tokenizing.sentencepiece_file import read_sentencepiece
from tests.parity.tokenizer_folders import gemma_sentencepiece, sentencepiece_model


@pytest.mark.parametrize("make", [sentencepiece_model, gemma_sentencepiece])
def test_pieces_are_those_that_sentencepiece_reads(tmp_path, make):
    import sentencepiece

    (tmp_path / "tokenizer.model").write_bytes(make())
    found = read_sentencepiece(tmp_path / "tokenizer.model")
    original = sentencepiece.SentencePieceProcessor(model_proto=make())
    numbers = range(original.vocab_size())
    assert list(found.pieces) == [original.id_to_piece(number) for number in numbers]
    control = {original.id_to_piece(number) for number in numbers if original.is_control(number)}
    assert {piece for piece, is_special in found.added if is_special} == control
    named = {"unk_token": original.unk_id(), "bos_token": original.bos_id(), "eos_token": original.eos_id()}
    assert found.special == {name: original.id_to_piece(number) for name, number in named.items()}


def test_user_defined_pieces_are_never_split_and_not_special(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(gemma_sentencepiece())
    added = dict(read_sentencepiece(tmp_path / "tokenizer.model").added)
    assert added["<start_of_turn>"] is False and added["\n\n"] is False and added["<bos>"] is True


def test_whether_a_space_is_put_before_a_text_is_what_sentencepiece_does(tmp_path):
    import sentencepiece

    for make in (sentencepiece_model, gemma_sentencepiece):
        (tmp_path / "tokenizer.model").write_bytes(make())
        first = sentencepiece.SentencePieceProcessor(model_proto=make()).encode("red", out_type=str)[0]
        assert read_sentencepiece(tmp_path / "tokenizer.model").puts_space is first.startswith("\u2581")


def test_a_token_without_an_id_is_not_there(tmp_path):
    import io

    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["red cat runs"] * 20), model_writer=made, model_type="bpe", vocab_size=30, bos_id=-1,
        eos_id=1, eos_piece="<end>", hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(made.getvalue())
    assert read_sentencepiece(tmp_path / "tokenizer.model").special == {"unk_token": "<unk>", "eos_token": "<end>"}


def test_merges_make_the_pieces_of_the_lowest_ids_first(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    model = read_sentencepiece(tmp_path / "tokenizer.model")
    ids = {piece: number for number, piece in enumerate(model.pieces)}
    ranks = [ids[left + right] for left, right in model.merges()]
    assert ranks == sorted(ranks) and len(ranks) > 300
    assert all(left in ids and right in ids for left, right in model.merges())


@pytest.mark.parametrize("content", [b"", b"tiktoken IA== 1\n", b"\x00" * 40, b"\x0a\x7f", b"PK\x03\x04 no model"])
def test_another_file_of_that_name_is_named(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match="tokenizer.model is damaged or no sentencepiece model.*tokenizer.json"):
        read_sentencepiece(tmp_path / "tokenizer.model")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 4000), flipped=st.integers(0, 4000), byte=st.integers(0, 255))
def test_damaged_bytes_give_pieces_or_a_clean_error(tmp_path, cut, flipped, byte):
    content = bytearray(sentencepiece_model()[: 4000 - cut])
    if flipped < len(content):
        content[flipped] = byte
    (tmp_path / "tokenizer.model").write_bytes(bytes(content))
    try:
        assert read_sentencepiece(tmp_path / "tokenizer.model").pieces
    except ModelError as error:
        assert "tokenizer.model" in str(error)
