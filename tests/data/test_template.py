from __future__ import annotations

import pytest

from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.template import TEMPLATES

TALK = Conversation(
    (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")), "train.json line 1"
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_trains_the_end_of_every_answer_and_no_word_of_the_user(name):
    rendered = TEMPLATES[name](TALK)
    assert len(rendered.turns) == 2
    assert not any(piece.trained for piece in rendered.head)
    for pieces, said, asked in zip(rendered.turns, "bd", "ac"):
        assert [piece for piece in pieces if piece.text == said and piece.trained]
        assert [piece for piece in pieces if piece.text == asked and not piece.trained]
        assert pieces[-1].trained and pieces[-1].special == "eos"


def test_the_default_template_adds_nothing_but_begin_and_end_tokens():
    rendered = TEMPLATES["default"](TALK)
    written = "".join(piece.special or piece.text for pieces in (rendered.head, *rendered.turns) for piece in pieces)
    assert written == "bosabeoscdeos"
