from __future__ import annotations

from functools import partial

from hypothesis import example, given, settings
from hypothesis import strategies as st

from paddle_sft.data.joint import encode_runs, find_special_tokens
from paddle_sft.data.tokenize import tokenize_texts
from tests.data.merging import MergingTokenizer

texts = st.text(alphabet="ab\n :é]T", max_size=8) | st.sampled_from(["<s>", "</s>", "\n</s>\n"])


def encode(runs, tokenizer):
    return encode_runs(runs, find_special_tokens(tokenizer), partial(tokenize_texts, tokenizer=tokenizer))


@settings(max_examples=400, deadline=None)
@given(runs=st.lists(st.lists(texts, min_size=1, max_size=5), max_size=3))
@example(runs=[["x\n", "\nab", "</s>", "\n"], ["a", "b", "a", "b"]])
@example(runs=[["a", "", "b"]])
def test_ids_are_those_of_the_whole_text_and_each_piece_has_the_tokens_that_hold_its_characters(runs):
    tokenizer = MergingTokenizer()
    for pieces, encoded in zip(runs, encode(runs, tokenizer)):
        text = "".join(pieces)
        offsets = tokenizer.offsets(text)
        assert encoded.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        position = 0
        for piece, (start, end) in zip(pieces, encoded.spans):
            stop = position + len(piece)
            held = [index for index, (low, high) in enumerate(offsets) if low < stop and high > position]
            assert not piece or list(range(start, end)) == held, (pieces, piece)
            position = stop


def test_of_two_special_tokens_that_begin_alike_the_longer_one_is_found():
    tokenizer = MergingTokenizer(("<s>", "</s>", "<s>x"))
    (encoded,) = encode([["a", "<s>x", "<s>"]], tokenizer)
    assert encoded.ids == [tokenizer._id("a"), 3, 1] and encoded.spans == [(0, 1), (1, 2), (2, 3)]


def test_a_special_token_that_takes_the_space_beside_it_is_one_token():
    class Taking(MergingTokenizer):
        def __init__(self):
            super().__init__()
            mask = type("Token", (), {"content": "<s>", "lstrip": True, "rstrip": False, "special": True})()
            self.added_tokens_decoder = {1: mask}

    (encoded,) = encode([["x  ", "<s>", " y"]], Taking())
    tokenizer = Taking()
    assert encoded.ids == [tokenizer._id("x"), 1, tokenizer._id(" "), tokenizer._id("y")]
    assert encoded.spans == [(0, 2), (1, 2), (2, 4)]
