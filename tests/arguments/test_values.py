"""A value is of the type its key declares, or an error says what is allowed, what was given and what to write."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Union

import pytest

from paddle_sft.arguments.values import members_of, read_value, read_words

TextOrList = Optional[Union[str, List[str]]]
Objects = Union[str, Dict[str, Any], None]


@pytest.mark.parametrize(
    "value, hint, expected",
    [
        (None, Optional[str], None),
        (True, bool, True),
        (3, int, 3),
        (3, float, 3.0),
        (2.5, float, 2.5),
        ("1e-4", float, 1e-4),
        ("3E5", float, 3e5),
        ("text", str, "text"),
        ("", str, ""),
        ("a, b", List[str], ["a", "b"]),
        (["a", "b"], List[str], ["a", "b"]),
        ("a, b", TextOrList, "a, b"),
        (["a"], TextOrList, ["a"]),
        (True, Optional[Union[bool, str]], True),
        ("path", Optional[Union[bool, str]], "path"),
        ([[1, 2]], Optional[List[List[int]]], [[1, 2]]),
        ("0.7,3e-1", List[float], [0.7, 0.3]),
        ({"a": {"b": 1}}, Objects, {"a": {"b": 1}}),
        ([{"a": 1}], Optional[List[Dict[str, Any]]], [{"a": 1}]),
        ("a", Objects, "a"),
    ],
)
def test_a_value_of_the_right_type_is_read_as_that_type(value, hint, expected):
    read = read_value(value, hint)
    assert read == expected and type(read) is type(expected)


def test_the_order_of_a_union_does_not_matter():
    assert members_of(Union[None, str, List[str], bool]) == (bool, str, List[str], type(None))


@pytest.mark.parametrize(
    "value, hint, message",
    [
        (2.5, int, "must be a whole number, got 2.5"),
        (2.0, int, "must be a whole number, got 2.0; write 2"),
        (True, int, "must be a whole number, got true"),
        (True, float, "must be a number, got true"),
        ("5", int, 'must be a whole number, got "5"; write the number without quotes'),
        ("0.1", float, 'must be a number, got "0.1"; write the number without quotes'),
        (float("nan"), float, "must be a number, got NaN"),
        (float("inf"), float, "must be a number, got Infinity"),
        (1, bool, "must be true or false, got 1; write true"),
        (0, bool, "must be true or false, got 0; write false"),
        ("true", bool, 'must be true or false, got "true"; write true'),
        ("no", bool, 'must be true or false, got "no"; write false'),
        (None, bool, "must be true or false, got null"),
        (None, str, "must be text, got null"),
        ("None", Optional[str], 'must be text or null, got "None"; write null without quotes'),
        ("null", Optional[str], 'must be text or null, got "null"; write null without quotes'),
        (3, str, "must be text, got 3"),
        ({"a": 1}, str, 'must be text, got {"a": 1}'),
        ([1], List[str], "must be a list, got [1]"),
        ([], str, "must be text, got []"),
        ("0.7,many", List[float], 'must be a list, got "0.7,many"'),
        ([1], Dict[str, Any], "must be an object, got [1]"),
        ({"a": 1}, Dict[str, str], 'must be an object, got {"a": 1}'),
        (["a"], List[Dict[str, Any]], 'must be a list, got ["a"]'),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_to_write(value, hint, message):
    with pytest.raises(ValueError) as caught:
        read_value(value, hint)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "words, hint, expected",
    [
        ([], bool, True),
        ([], Optional[Union[bool, str]], True),
        (["True"], bool, True),
        (["false"], bool, False),
        (["null"], Optional[str], None),
        (["None"], Optional[int], None),
        (["-1"], int, -1),
        (["1e-4"], float, 1e-4),
        (["3"], float, 3.0),
        (["12"], str, "12"),
        (["true"], str, "true"),
        (["true"], Optional[Union[bool, str]], True),
        (["a,b"], List[str], ["a", "b"]),
        (["a", "b"], List[str], ["a", "b"]),
        (['["a", "b"]'], List[str], ["a", "b"]),
        (["[1, b"], TextOrList, "[1, b"),
        (['["a"]'], TextOrList, '["a"]'),
        (["Hello, you"], TextOrList, "Hello, you"),
        (["one", "two"], TextOrList, ["one", "two"]),
        (["0.7,0.3"], Optional[List[float]], [0.7, 0.3]),
        (['{"a": [1]}'], Objects, {"a": [1]}),
        (["{a}"], Objects, "{a}"),
        (['[{"a": 1}]'], Optional[List[Dict[str, Any]]], [{"a": 1}]),
    ],
)
def test_words_of_a_command_line_are_read_as_the_type_of_their_key(words, hint, expected):
    read = read_words(words, hint)
    assert read == expected and type(read) is type(expected)


@pytest.mark.parametrize(
    "words, hint, message",
    [
        ([], int, "needs a value: a whole number"),
        (["2.5"], int, "must be a whole number, got 2.5"),
        (["many"], int, 'must be a whole number, got "many"'),
        (["nan"], float, "must be a number, got NaN"),
        (["1"], bool, 'must be true or false, got "1"'),
        (["yes"], bool, 'must be true or false, got "yes"; write true'),
        (["my", "run"], str, "must be text, got 2 words: my run; quote a text"),
        (["null"], str, 'must be text, got "null"'),
    ],
)
def test_words_of_another_type_are_refused(words, hint, message):
    with pytest.raises(ValueError) as caught:
        read_words(words, hint)
    assert str(caught.value) == message
