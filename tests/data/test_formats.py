from __future__ import annotations

import pytest

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.dialogue import JudgedConversation, PreferencePair
from paddle_sft.data.formats import FORMATS, KINDS, Document, Layout, RowReader, read_columns, read_row
from paddle_sft.data.label_rows import LabelledText

PLACE = "train.json line 7"
RECORDS = {"conversation": Conversation, "document": Document, "pair": PreferencePair, "judged": JudgedConversation,
           "labelled": LabelledText}  # fmt: skip
ALSO_READ = {("text_label", "pretrain"): ("label",)}
"""An example that a stage reads as another format, and the keys that are not used then."""


@pytest.mark.parametrize("stage", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_documented_example_of_a_format_is_read_by_the_stages_that_take_it_and_refused_by_the_others(name, stage):
    form = FORMATS[name]
    assert set(form.required) <= set(form.example) <= set(form.keys)
    if (name, stage) in ALSO_READ:
        assert read_row(dict(form.example), PLACE, stage)[1] == ALSO_READ[name, stage]
        return
    if KINDS[stage] not in form.readers:
        with pytest.raises(DataError, match=f"{PLACE}: a {name} row"):
            read_row(dict(form.example), PLACE, stage)
        return
    record, unused = read_row(dict(form.example), PLACE, stage)
    assert isinstance(record, RECORDS[KINDS[stage]]) and record.place == PLACE and not unused


def test_rows_with_the_same_keys_may_be_of_different_formats():
    """What label holds tells KTO's judgement from a key that nobody reads."""
    reader = RowReader("sft")
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in ("physics", True, "law")]
    assert reader.read(rows[0], PLACE)[1] == ("label",)
    with pytest.raises(DataError, match="a kto row"):
        reader.read(rows[1], PLACE)
    assert reader.read(rows[2], PLACE)[1] == ("label",)
    assert reader.met == {"prompt_completion": (2, PLACE)}


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


@pytest.mark.parametrize("name", ["preference", "response_sort", "kto"])
def test_stage_sft_refuses_judged_answers_by_name_and_says_the_way_out(name):
    with pytest.raises(DataError) as error:
        read_row(dict(FORMATS[name].example), PLACE, "sft")
    for words in [PLACE, f"a {name} row", "data_format and columns"]:
        assert words in str(error.value)


@pytest.mark.parametrize(
    "one, other", [("src_tgt", "messages"), ("messages", "preference"), ("alpaca", "prompt_completion")]
)
def test_a_row_that_could_be_two_formats_is_refused_until_one_is_named(one, other):
    row = {**FORMATS[one].example, **FORMATS[other].example}
    with pytest.raises(DataError, match=f"both {one} and {other} keys.*data_format"):
        read_row(row, PLACE, "sft")
    record, unused = read_row(row, PLACE, "sft", Layout(one))
    assert isinstance(record, Conversation) and set(unused) == set(FORMATS[other].example) - set(FORMATS[one].keys)


def test_columns_give_our_names_to_their_keys():
    row = {"question": "a", "answer": "b", "src": "not this", "id": 1}
    layout = Layout(None, {"src": "question", "tgt": "answer"})
    record, unused = read_row(row, PLACE, "sft", layout)
    assert record.turns == (Turn("user", "a"), Turn("assistant", "b"))
    assert unused == ("src", "id")


def test_a_column_that_a_row_has_not_is_refused_unless_the_key_is_optional():
    layout = Layout("alpaca", {"instruction": "q", "input": "context"})
    assert read_row({"q": "a", "output": "b"}, PLACE, "sft", layout)[0].turns[0].content == "a"
    with pytest.raises(DataError, match=f"{PLACE}: columns reads instruction from 'q'.*keys: output"):
        read_row({"output": "b"}, PLACE, "sft", layout)


@pytest.mark.parametrize(
    "given, words",
    [
        (("mesages", {}), "data_format is 'mesages', did you mean 'messages'"),
        (("alpaca", {"outptu": "x"}), "columns is 'outptu', did you mean 'output'"),
        (("alpaca", {"messages": "x"}), "columns is 'messages'"),
        ((None, {"src": "x", "tgt": "x"}), "columns reads 'x' 2 times"),
    ],
)
def test_a_layout_that_can_not_be_meant_is_refused(given, words):
    with pytest.raises(ArgumentError, match=words):
        Layout(*given)


def test_columns_are_an_object_or_pairs():
    assert read_columns({"src": "q"}) == read_columns(["src=q"]) == {"src": "q"}
    assert read_columns(["src=a=b", "tgt=c"]) == {"src": "a=b", "tgt": "c"}
    assert read_columns(None) == read_columns([]) == {}
    for given in (["src"], ["=q"], {"src": 5}, [5], ["src=a", "src=b"]):
        with pytest.raises(ArgumentError, match="columns"):
            read_columns(given)


def test_the_format_of_the_first_row_is_said_and_every_other_one_too():
    reader = RowReader("sft")
    for line, name in enumerate(["messages", "messages", "alpaca"], start=1):
        reader.read(dict(FORMATS[name].example), f"train.json line {line}")
    (line,) = reader.lines()
    assert line == (
        "format: messages (2 rows, told from train.json line 1) and alpaca (1 row, told from train.json line 3)"
    )
    named = RowReader("sft", Layout("alpaca"))
    assert named.lines() == ["format: alpaca (data_format)"]
