from __future__ import annotations

import json

import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.data.chat_rows import ROLE_OF
from paddle_sft.data.dialogue import is_trained, train_last_answer_only
from paddle_sft.data.formats import read_row

PLACE = "train.json line 7"
USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def read(row, stage="sft"):
    return read_row(row, PLACE, stage)[0]


def said(conversation):
    return [(turn.role, turn.content, is_trained(turn)) for turn in conversation.turns]


def test_every_role_alias_is_read_as_its_role():
    for alias, role in ROLE_OF.items():
        call = json.dumps({"name": "f", "arguments": {}}) if alias in ("function_call", "tool_call") else "x"
        before = {"system": [], "user": [], "assistant": [USER], "tool": [USER, ANSWER]}[role]
        after = {"system": [USER, ANSWER], "user": [ANSWER], "assistant": [], "tool": [ANSWER]}[role]
        for keys in (("role", "content"), ("from", "value")):
            conversation = read({"messages": [*before, dict(zip(keys, (alias, call))), *after]})
            assert conversation.turns[len(before)].role == role


def test_sharegpt_reads_what_messages_reads_and_a_system_key():
    rows = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert said(read({"conversations": rows, "system": "s"})) == [
        ("system", "s", False), ("user", "a", False), ("assistant", "b", True),
    ]  # fmt: skip


def test_a_function_call_becomes_a_tool_call_and_tools_may_be_json_text():
    call = json.dumps({"name": "add", "arguments": {"x": 1}})
    rows = [
        {"from": "human", "value": "a"}, {"from": "function_call", "value": call},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "b"},
    ]  # fmt: skip
    conversation = read({"conversations": rows, "tools": json.dumps([{"name": "add"}])})
    assert [turn.role for turn in conversation.turns] == ["user", "assistant", "tool", "assistant"]
    expected = [{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}]
    assert conversation.turns[1].extra == {"tool_calls": expected} and conversation.tools == ({"name": "add"},)


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"weight": 0, "train": False}])
def test_an_answer_can_be_kept_out_of_the_loss(flag):
    conversation = read({"messages": [USER, {**ANSWER, **flag}, USER, {**ANSWER, "weight": 1}]})
    assert [is_trained(turn) for turn in conversation.turns] == [False, False, False, True]


def test_history_and_input_of_alpaca_stand_before_the_question():
    row = {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "s"}
    assert [turn.content for turn in read(row).turns] == ["s", "d", "e", "a\nb", "c"]
    assert [turn.content for turn in read({"instruction": "a", "input": "", "output": "c"}).turns] == ["a", "c"]
    assert [turn.content for turn in read({"instruction": "", "input": "b", "output": "c"}).turns] == ["b", "c"]


def test_only_the_completion_of_a_prompt_is_trained():
    row = {"prompt": [USER, ANSWER, USER], "completion": [{"role": "assistant", "content": "c"}]}
    assert [is_trained(turn) for turn in read(row).turns] == [False, False, False, True]
    assert said(read({"prompt": "a", "completion": "c"})) == [("user", "a", False), ("assistant", "c", True)]


def test_text_parts_are_joined_and_nulls_are_absent():
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    user = {"role": "user", "content": content, "weight": None, "name": None}
    assert read({"messages": [user, ANSWER], "system": None, "tools": None}).turns[0].content == "ab"


def test_mask_history_trains_the_last_answer_only():
    conversation = train_last_answer_only(read({"src": ["a", "b", "c"], "tgt": ["x", "y", "z"]}))
    assert [is_trained(turn) for turn in conversation.turns] == [False, False, False, False, False, True]


HUMAN = {"from": "human", "value": "a"}
BAD = [
    ({"messages": "x"}, ["messages is a string", "a list of messages"]),
    ({"messages": []}, ["messages is an empty list"]),
    ({"messages": ["x"]}, ["messages[0] is a string", '{"role": ..., "content": ...}']),
    ({"messages": [{"content": "a"}]}, ["messages[0] has no role (keys: content)", "from and value"]),
    ({"messages": [{"role": "usr", "content": "a"}]}, ["messages[0].role is 'usr', did you mean 'user'?"]),
    ({"messages": [{"role": "user"}, ANSWER]}, ["messages[0].content is null"]),
    ({"messages": [{"role": "user", "content": 5}, ANSWER]}, ["messages[0].content is a number"]),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, ["content[0] is no text part"]),
    ({"messages": [{"role": "user", "content": "\ud83d"}, ANSWER]}, ["half of a surrogate pair"]),
    ({"messages": [USER, {**ANSWER, "wieght": 0}]}, ["messages[1] has a key 'wieght'", "did you mean 'weight'"]),
    ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, ["messages[1].weight is 0.5", "0 (not trained) and 1"]),
    ({"messages": [USER, {**ANSWER, "train": 1}]}, ["messages[1].train is a number"]),
    ({"messages": [USER, {**ANSWER, "train": True, "weight": 0}]}, ["weight 0 and train True", "keep one"]),
    ({"messages": [{**USER, "train": True}, ANSWER]}, ["the user's and marked as trained", "train_on_prompt"]),
    ({"messages": [USER, {**ANSWER, "weight": 0}]}, ["no message of messages is trained"]),
    ({"messages": [ANSWER]}, ["the first turn of messages is assistant, user (human) is needed"]),
    ({"messages": [{"role": "system", "content": "s"}]}, ["the first turn of messages is missing"]),
    ({"messages": [USER, ANSWER, USER]}, ["messages ends with user", "remove the last message or answer it"]),
    ({"messages": [USER, ANSWER, {"role": "system", "content": "s"}, USER, ANSWER]}, ["message 3 of messages is the"]),
    ({"messages": [{"role": "system", "content": "s"}, USER, ANSWER], "system": "t"}, ["message 2", "is the system's"]),
    ({"messages": [USER, {"role": "tool", "content": "t"}, ANSWER]}, ["message 2", "is a tool's", "follows user"]),
    ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, ["message 2", "is empty", "remove the line"]),
    ({"messages": [USER, ANSWER], "tools": {"a": 1}}, ["tools is an object", "a list of objects"]),
    ({"messages": [USER, ANSWER], "tools": "[1"}, ["tools is not valid JSON"]),
    ({"conversations": [{"from": "gpt", "value": "b"}]}, ["the first turn of conversations is assistant"]),
    ({"conversations": [HUMAN, {"from": "function_call", "value": "f()"}]}, ["not valid JSON"]),
    ({"conversations": [HUMAN, {"from": "function_call", "value": "{}"}]}, ["a function call"]),
    ({"instruction": "a"}, ["no 'output' key", "instruction and output"]),
    ({"instruction": "a", "output": " "}, ["message 2 of output (assistant) is empty"]),
    ({"instruction": "a", "output": "b", "history": ["c"]}, ["history[0] is a string", "[question, answer]"]),
    ({"instruction": None, "output": "b"}, ["instruction is null"]),
    ({"prompt": "a", "completion": ""}, ["is empty"]),
    ({"prompt": 1, "completion": "b"}, ["prompt is a number", "a string or a list of messages"]),
    ({"prompt": [], "completion": "b"}, ["prompt is an empty list"]),
]  # fmt: skip


@pytest.mark.parametrize("row, words", BAD)
def test_a_row_that_is_no_dialogue_is_refused_with_its_place_and_a_remedy(row, words):
    with pytest.raises(DataError) as error:
        read(row)
    for word in [PLACE, *words]:
        assert word in str(error.value)


# ---- preference and KTO ------------------------------------------------------------------------------------------


def contents(conversation):
    return [turn.content for turn in conversation.turns]


@pytest.mark.parametrize(
    "row, chosen, rejected",
    [
        ({"prompt": "p", "chosen": "x", "rejected": "y"}, ["p", "x"], ["p", "y"]),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": {"from": "gpt", "value": "y"}, "system": "s"},
         ["s", "a", "b"], ["s", "a", "y"]),
        ({"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "y"}]}, ["a", "b"], ["a", "y"]),
        ({"src": ["p"], "tgt": [], "response": ["x", "y"], "sort": [0, 1]}, ["p", "y"], ["p", "x"]),
        ({"src": ["p", "q"], "tgt": ["r"], "response": ["x", "y"], "sort": [1, 0]},
         ["p", "r", "q", "x"], ["p", "r", "q", "y"]),
    ],
)  # fmt: skip
def test_a_preference_is_two_conversations_that_differ_in_what_is_trained(row, chosen, rejected):
    pair = read(row, "preference")
    assert contents(pair.chosen) == chosen and contents(pair.rejected) == rejected and pair.place == PLACE
    assert [is_trained(turn) for turn in pair.chosen.turns] == [False] * (len(chosen) - 1) + [True]


@pytest.mark.parametrize("label, wanted", [(True, True), (False, False), (1, True), ("false", False)])
def test_a_judged_answer_has_its_judgement(label, wanted):
    judged = read({"prompt": "p", "completion": "c", "label": label}, "kto")
    assert contents(judged.conversation) == ["p", "c"] and judged.desirable is wanted


BAD_PREFERENCES = [
    ({"chosen": "x", "rejected": "y"}, ["a prompt is needed"]),
    ({"prompt": "p", "chosen": "x", "rejected": "x"}, ["are the same"]),
    ({"prompt": "p", "chosen": "x", "rejected": ""}, ["rejected (assistant) is empty"]),
    ({"src": ["p"], "tgt": ["q"], "response": ["x", "y"], "sort": [1, 0]}, ["src has 1 entries and tgt has 1"]),
    ({"src": ["p"], "response": ["x", "y"], "sort": [1, 1]}, ["neither response is the better"]),
    ({"src": ["p"], "response": ["x"], "sort": [1]}, ["two entries each"]),
]  # fmt: skip


@pytest.mark.parametrize("row, words", BAD_PREFERENCES)
def test_a_bad_preference_is_refused_with_its_place(row, words):
    with pytest.raises(DataError) as error:
        read(row, "preference")
    for word in [PLACE, *words]:
        assert word in str(error.value)
