from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.template import render_default
from paddle_sft.data.tokenize import adds_bos, find_specials, tokenize_conversations


def talk(*texts, place="train.json line 1"):
    return Conversation(tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)), place)


@pytest.mark.parametrize(
    "plain, with_special, bos, expected",
    [
        ([7], [1, 7], 1, True),
        ([7], [1, 7, 2], 1, True),
        ([7], [7], 1, False),  # has a begin token and doesn't put it
        ([7], [7, 2], 1, False),
        ([7], [7, 2], 2, False),  # begin and end are one token, put behind the text only
        ([7], [2, 7, 2], 2, True),
        ([7], [7], None, False),
        ([1], [1], 1, False),  # the text itself is spelt like the begin token
        ([], [], 1, False),
    ],
)
def test_a_begin_token_is_added_only_where_the_tokenizer_puts_it_before_the_text(plain, with_special, bos, expected):
    assert adds_bos(plain, with_special, bos) is expected


@pytest.mark.parametrize(
    "options, bos",
    [
        ({}, (1,)),
        ({"adds_bos": False}, ()),
        ({"adds_eos": True}, (1,)),
        ({"bos_token_id": None, "adds_bos": False}, ()),
    ],
)
def test_the_tokenizer_is_asked_for_its_habits(make_tokenizer, options, bos):
    specials = find_specials(make_tokenizer(**options))
    assert (specials.bos, specials.eos) == (bos, (2,))


def test_a_tokenizer_without_end_token_is_refused(make_tokenizer):
    with pytest.raises(DataError, match="no end token.*set eos_token"):
        find_specials(make_tokenizer(eos_token_id=None))


def test_answers_and_their_end_tokens_are_trained_and_nothing_else(tokenizer, ids_of):
    specials = find_specials(tokenizer)
    (draft,) = tokenize_conversations([talk("ab", "c", "", "d")], render_default, specials, tokenizer)
    assert draft.ids.tolist() == [1, *ids_of("abc"), 2, *ids_of("d"), 2]
    assert draft.trained.tolist() == [False, False, False, True, True, True, True]
    assert draft.turn_starts.tolist() == [1, 5]
    assert draft.ids.dtype == np.int32 and draft.trained.dtype == bool and draft.place == "train.json line 1"


def test_a_batch_gives_each_conversation_its_own_ids(tokenizer):
    specials = find_specials(tokenizer)
    talks = [talk("", "a"), talk("bb", "cc", "", "d"), talk("", "é"), talk("e", "f")]
    together = tokenize_conversations(talks, render_default, specials, tokenizer)
    for one, draft in zip(talks, together):
        (alone,) = tokenize_conversations([one], render_default, specials, tokenizer)
        np.testing.assert_array_equal(draft.ids, alone.ids)
        np.testing.assert_array_equal(draft.trained, alone.trained)
