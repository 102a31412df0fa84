from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paddle_sft.data import json_array
from paddle_sft.data.json_array import ArrayError, read_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def read(content, head=1, at_once=3):
    """(values, what is wrong) of an array of which `head` bytes are read already; its bracket is among them."""
    found = []
    before, json_array.READ_BYTES = json_array.READ_BYTES, at_once
    try:
        found.extend(read_values(content[:head], io.BytesIO(content[head:])))
    except ArrayError as error:
        return found, f"line {error.line}: {error.message}"
    finally:
        json_array.READ_BYTES = before
    return found, ""


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(VALUES, max_size=4),
    indent=st.none() | st.integers(0, 2),
    is_ascii=st.booleans(),
    mark=st.booleans(),
    at_once=st.integers(1, 9),
)
@example(values=[10.5, 1e300, -2], indent=None, is_ascii=True, mark=False, at_once=1)
def test_values_are_those_of_json_loads(values, indent, is_ascii, mark, at_once):
    content = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode("utf-8", errors="surrogatepass")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return  # half a surrogate pair, of which the next test has plenty
    start = b"\xef\xbb\xbf" * mark + b" \n"
    assert read(start + content + b"\r\n ", len(start) + 1, at_once) == (json.loads(content), "")


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(VALUES, max_size=4),
    position=st.integers(1, 60),
    inserted=st.sampled_from([b"", b"]", b"[", b",", b'"', b"}", b"\n", b"x", b"\xff", b"\xc3", b"1", b"\\"]),
    removed=st.integers(0, 5),
    at_once=st.integers(1, 9),
)
@example(values=[1, 2], position=2, inserted=b"", removed=9, at_once=1)
def test_what_is_wrong_is_said_as_json_loads_says_it(values, position, inserted, removed, at_once):
    whole = json.dumps(values, indent=1, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
    content = whole[:position] + inserted + whole[position + removed :]
    try:
        expected = ""
        json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x} at offset {error.start} of the file"
        expected = f"line {line}: not UTF-8, {byte}; save it as UTF-8"
    except json.JSONDecodeError as error:
        expected = f"line {error.lineno}: not valid JSON ({error.msg}, column {error.colno})"
    said = read(content, 1, at_once)[1]
    if "not UTF-8" in expected and said != expected:
        assert "not valid JSON" in said  # found before the byte was read
        return
    assert said == expected


@pytest.mark.parametrize("content, line", [(b"[\n[" * 50_000, 2), (b"[1,\n" + b"9" * 5000 + b"]", 2)])
def test_what_python_can_not_read_is_said_with_its_line(content, line):
    found, said = read(content, 1, 1 << 16)
    if not said:  # Python 3.9 and 3.10 read numbers of any length
        assert found == [1, int("9" * 5000)]
        return
    assert said.startswith(f"line {line}: ") and ("can't be read" in said or "not valid" in said)


def test_memory_is_that_of_a_few_values():
    content = b"[" + b",".join([json.dumps({"text": "x" * 1000}).encode()] * 8000) + b"]"
    stream = io.BytesIO(content[1:])
    tracemalloc.start()
    assert sum(1 for _ in read_values(content[:1], stream)) == 8000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) > 8e6 and peak < 5e6
