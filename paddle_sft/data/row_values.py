"""Reads values out of a row of the data, and says what is wrong with them in the user's words."""

from __future__ import annotations

from typing import Any, List

from paddle_sft.core.errors import DataError


def kind_of(value: object) -> str:
    """What JSON calls a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def text_of(value: Any, which: str, place: str, remedy: str = "put it in quotes") -> str:
    """`value` if it is a string that a tokenizer can encode.

    Raises:
        DataError: another type, or half of a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise DataError(f"{place}: {which} is {kind_of(value)}, a string is needed; {remedy}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; it is not a character, and tokenizers crash on it
        half = ord(value[error.start])
        raise DataError(
            f"{place}: {which} holds \\u{half:04x} at character {error.start}, half of a surrogate pair and no "
            "character; write the whole pair or remove it"
        ) from None
    return value


def texts_of(row: dict, key: str, place: str) -> List[str]:
    """The value as a list of strings; a string alone is a list of one."""
    value = row[key]
    entries = value if isinstance(value, list) else [value]
    for index, entry in enumerate(entries):
        if isinstance(entry, str) and entry.isascii():
            continue  # as most are; the words for a message cost more than the check
        which = f"{key}[{index}]" if isinstance(value, list) else key
        remedy = "write a string or a list of strings" + (' ("" for no text)' if entry is None else "")
        text_of(entry, which, place, remedy)
    return entries


def optional_text(row: dict, key: str, place: str) -> str:
    """The string under `key`, "" where it is missing or null (a Parquet column has a null where a row has no value)."""
    return "" if row.get(key) is None else text_of(row[key], key, place)


def list_of(row: dict, key: str, place: str, of_what: str) -> list:
    """The list under `key`.

    Raises:
        DataError: something else.
    """
    value = row[key]
    if not isinstance(value, list):
        raise DataError(f"{place}: {key} is {kind_of(value)}, a list of {of_what} is needed")
    return value


def require_keys(row: dict, keys: tuple, place: str, name: str) -> None:
    """Raises DataError for the first of `keys` that the row has not."""
    for key in keys:
        if key not in row:
            there = ", ".join(map(str, row)) or "none"
            raise DataError(f"{place}: no {key!r} key (keys: {there}); a {name} row needs {' and '.join(keys)}")
