"""Reads rows from JSON lines, or from one JSON array of objects; the first character tells which it is."""

from __future__ import annotations

import json
from typing import BinaryIO, Iterator, Optional, Tuple

from paddle_sft.data.problems import Problems
from paddle_sft.data.row_values import kind_of

FoundRow = Tuple[Optional[dict], str]

REMEDY = 'write one complete JSON object on one line, such as {"src": "...", "tgt": "..."}'

_NEWLINE = b"\n"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_json(stream: BinaryIO, name: str, problems: Problems) -> Iterator[FoundRow]:
    """(row, place) of every line that isn't blank, or of every item of an array; the row of a bad one is None."""
    num_rows = 0
    offset = 0
    blank = b""
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith(_UTF16_MARKS):
            problems.add(f"{name} is not UTF-8, it begins with a UTF-16 byte order mark; save it as UTF-8")
            return
        mark = len(_UTF8_MARK) if number == 1 and line.startswith(_UTF8_MARK) else 0
        content = line[mark:].strip()
        if content.startswith(b"[") and not num_rows:
            yield from _read_array(blank + line + stream.read(), name, problems)  # a compressed stream can't go back
            return
        if content:
            num_rows += 1
            start = offset + mark + line[mark:].index(content)
            place = f"{name} line {number}"
            text = decode(content, place, start, problems)
            yield (None if text is None else _parse_line(text, place, problems)), place
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


def _parse_line(text: str, place: str, problems: Problems) -> Optional[dict]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problems.add(f"{place}: not valid JSON ({error.msg}, column {error.colno}); {REMEDY}")
        return None
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deep
        problems.add(f"{place}: JSON that can't be read ({error}); {REMEDY}")
        return None
    return require_object(value, place, problems)


def _read_array(content: bytes, name: str, problems: Problems) -> Iterator[FoundRow]:
    why = f"{name} begins with '[', so it is read as one JSON array of objects"
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the byte order mark
        start = error.start + (len(_UTF8_MARK) if content.startswith(_UTF8_MARK) else 0)
        place = f"{name} line {content.count(_NEWLINE, 0, start) + 1}"
        byte = content[start]
        problems.add(f"{place}: not UTF-8, byte 0x{byte:02x} at offset {start} of the file; save it as UTF-8")
        return
    except json.JSONDecodeError as error:
        problems.add(
            f"{name} line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}). "
            f"{why}; mend it, or {REMEDY}"
        )
        return
    except (ValueError, RecursionError) as error:
        problems.add(f"{name} line 1: JSON that can't be read ({error}). {why}; mend it, or {REMEDY}")
        return
    if not values:
        problems.add(f"{name} is empty: it holds the array []; {REMEDY}")
    for number, value in enumerate(values, start=1):
        place = f"{name} item {number}"
        yield require_object(value, place, problems), place


def require_object(value: object, place: str, problems: Problems) -> Optional[dict]:
    if isinstance(value, dict):
        return value
    problems.add(f"{place}: {kind_of(value)} where an object is needed; {REMEDY}")
    return None
