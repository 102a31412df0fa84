"""Reads rows from JSON lines, or from one JSON array of objects; the first character tells which it is."""

from __future__ import annotations

import json
from typing import BinaryIO, Iterator, NamedTuple, Optional, Tuple, Union

from paddle_sft.data.json_array import ArrayError, read_values
from paddle_sft.data.problems import Problems
from paddle_sft.data.row_values import kind_of

FoundRow = Tuple[Optional[dict], str]

REMEDY = 'write one complete JSON object on one line, such as {"src": "...", "tgt": "..."}'

_DECODER = json.JSONDecoder()
_BLANK = " \t\n\r"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class RawLine(NamedTuple):
    """A line that is to be read as JSON, by whoever has the time for it."""

    number: int
    """From 1."""
    start: int
    """Bytes of the file before `content`."""
    content: bytes


def parse_line(line: RawLine, name: str, problems: Problems) -> FoundRow:
    """(row, place) of a line of file `name`; the row of a bad one is None."""
    place = f"{name} line {line.number}"
    text = decode(line.content, place, line.start, problems)
    return (None if text is None else _parse_text(text, place, problems)), place


def read_json(
    stream: BinaryIO, name: str, problems: Problems, begin: Optional[RawLine] = None
) -> Iterator[Union[RawLine, FoundRow]]:
    """Every line that isn't blank; or (row, place) of every item of an array, where the row of a bad one is None.

    `begin`: the stream stands at the start of this line, with others before it.
    """
    num_rows = 0 if begin is None else 1
    offset = 0 if begin is None else begin.start
    blank = b""
    for number, line in enumerate(stream, start=1 if begin is None else begin.number):
        if number == 1 and line.startswith(_UTF16_MARKS):
            problems.add(f"{name} is not UTF-8, it begins with a UTF-16 byte order mark; save it as UTF-8")
            return
        mark = len(_UTF8_MARK) if number == 1 and line.startswith(_UTF8_MARK) else 0
        content = line[mark:].strip()
        if content.startswith(b"[") and not num_rows:
            yield from _read_array(blank + line, stream, name, problems)
            return
        if content:
            num_rows += 1
            yield RawLine(number, offset + mark + line[mark:].index(content), content)
        elif not num_rows:
            blank += line
        offset += len(line)
    if not num_rows:
        problems.add(f"{name} is empty; {REMEDY}")


def decode(content: bytes, place: str, start: int, problems: Problems) -> Optional[str]:
    """The text of `content`, which begins `start` bytes into the file."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        offset = start + error.start
        problems.add(f"{place}: not UTF-8, byte 0x{byte:02x} at offset {offset} of the file; save it as UTF-8")
        return None


def _parse_text(text: str, place: str, problems: Problems) -> Optional[dict]:
    try:
        value, end = _DECODER.raw_decode(text)  # json.loads without its search for white space, which is gone already
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, len(text) - len(text[end:].lstrip(_BLANK)))
    except json.JSONDecodeError as error:
        problems.add(f"{place}: not valid JSON ({error.msg}, column {error.colno}); {REMEDY}")
        return None
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deep
        problems.add(f"{place}: JSON that can't be read ({error}); {REMEDY}")
        return None
    return require_object(value, place, problems)


def _read_array(head: bytes, stream: BinaryIO, name: str, problems: Problems) -> Iterator[FoundRow]:
    number = 0
    try:
        for number, value in enumerate(read_values(head, stream), start=1):
            place = f"{name} item {number}"
            yield require_object(value, place, problems), place
    except ArrayError as error:
        problems.add(
            f"{name} line {error.line}: {error.message}. {name} begins with '[', so it is read as one JSON array of "
            f"objects; mend it, or {REMEDY}"
        )
        return
    if not number:
        problems.add(f"{name} is empty: it holds the array []; {REMEDY}")


def require_object(value: object, place: str, problems: Problems) -> Optional[dict]:
    if isinstance(value, dict):
        return value
    problems.add(f"{place}: {kind_of(value)} where an object is needed; {REMEDY}")
    return None
