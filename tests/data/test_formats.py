from __future__ import annotations

import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.formats import FORMATS, NOT_YET, Document, read_row

PLACE = "train.json line 7"


@pytest.mark.parametrize("name", FORMATS)
def test_the_documented_example_of_a_format_is_read_by_each_stage_that_takes_it(name):
    form = FORMATS[name]
    assert set(form.example) == set(form.keys)
    document, unused = read_row(dict(form.example), PLACE, "pretrain")
    assert isinstance(document, Document) and document.place == PLACE and not unused
    if form.to_conversation is not None:
        conversation, unused = read_row(dict(form.example), PLACE, "sft")
        assert isinstance(conversation, Conversation) and conversation.place == PLACE and not unused


def test_lists_are_turns_in_order():
    conversation, _ = read_row({"src": ["a", "c"], "tgt": ["b", "d"]}, PLACE, "sft")
    roles = ("user", "assistant", "user", "assistant")
    assert conversation.turns == tuple(Turn(role, text) for role, text in zip(roles, "abcd"))


def test_a_string_is_one_turn_and_whitespace_is_kept():
    conversation, _ = read_row({"src": " a\n", "tgt": [" b "]}, PLACE, "sft")
    assert conversation.turns == (Turn("user", " a\n"), Turn("assistant", " b "))


def test_an_empty_source_is_legal():
    conversation, _ = read_row({"src": "", "tgt": "b"}, PLACE, "sft")
    assert conversation.turns[0] == Turn("user", "")


@pytest.mark.parametrize(
    "row, text",
    [
        ({"text": " once "}, " once "),
        ({"src": "a ", "tgt": "b"}, "a b"),
        ({"src": ["a", "c"], "tgt": ["b", "d"]}, "abcd"),
        ({"src": "a"}, "a"),
        ({"src": "a", "tgt": ""}, "a"),
        ({"tgt": "b"}, "b"),
    ],
)
def test_pretraining_reads_running_text(row, text):
    assert read_row(row, PLACE, "pretrain")[0] == Document(text, PLACE)


def test_other_keys_are_named_as_unused():
    assert read_row({"src": "a", "id": 1, "tgt": "b", "text": "c"}, PLACE, "sft")[1] == ("id", "text")


BAD_ROWS = [
    ("sft", {"src": "a", "target": "b"}, ["no 'tgt'", "keys: src, target", "write both"]),
    ("sft", {"tgt": "b"}, ["no 'src'", "keys: tgt"]),
    ("sft", {"source": "a", "target": "b"}, ["keys: source, target", "write src and tgt"]),
    ("sft", {}, ["keys: none", "write src and tgt"]),
    ("sft", {"src": ["a", "b"], "tgt": ["c"]}, ["src has 2 entries and tgt has 1", "one tgt for each src"]),
    ("sft", {"src": ["a", "b"], "tgt": "c"}, ["src has 2 entries and tgt has 1"]),
    ("sft", {"src": [], "tgt": []}, ["empty lists", "at least one turn"]),
    ("sft", {"src": "a", "tgt": ""}, ["tgt is empty", "write the answer or remove the line"]),
    ("sft", {"src": "a", "tgt": " \n\t"}, ["tgt is empty"]),
    ("sft", {"src": ["a", "b"], "tgt": ["c", " "]}, ["tgt[1] is empty"]),
    ("sft", {"src": None, "tgt": "b"}, ["src is null", '""']),
    ("sft", {"src": "a", "tgt": 5}, ["tgt is a number", "write a string"]),
    ("sft", {"src": "a", "tgt": True}, ["tgt is true or false"]),
    ("sft", {"src": {"x": 1}, "tgt": "b"}, ["src is an object"]),
    ("sft", {"src": ["a", ["b"]], "tgt": ["c", "d"]}, ["src[1] is a list"]),
    ("sft", {"src": "ok \ud83d", "tgt": "b"}, ["src holds \\ud83d at character 3", "write the whole pair"]),
    ("sft", {"text": "a"}, ["a text row", "stage sft", "set stage to pretrain"]),
    ("pretrain", {"text": ""}, ["text is empty", "remove the line"]),
    ("pretrain", {"text": None}, ["text is null", "a string is needed"]),
    ("pretrain", {"text": ["a"]}, ["text is a list"]),
    ("pretrain", {"src": " ", "tgt": ""}, ["src and tgt is empty"]),
    ("pretrain", {"src": ["a"], "tgt": ["b", "c"]}, ["src has 1 entries and tgt has 2"]),
    ("pretrain", {"text": "a", "src": "b"}, ["both src_tgt and text", "keep one"]),
    ("pretrain", {"content": "a"}, ["keys: content", "or text"]),
]  # fmt: skip


@pytest.mark.parametrize("stage, row, words", BAD_ROWS)
def test_a_bad_row_is_refused_with_its_place_and_a_remedy(stage, row, words):
    with pytest.raises(DataError) as error:
        read_row(row, PLACE, stage)
    for word in [PLACE, *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
@pytest.mark.parametrize("name", NOT_YET)
@pytest.mark.parametrize("beside", [{}, {"src": "a", "tgt": "b"}])
def test_a_format_that_is_not_there_yet_is_refused_by_name(stage, name, beside):
    row = {**beside, **{key: "x" for key in NOT_YET[name]}}
    with pytest.raises(DataError) as error:
        read_row(row, PLACE, stage)
    assert f"{PLACE}: {name} data is not available yet; write it as src/tgt" in str(error.value)
