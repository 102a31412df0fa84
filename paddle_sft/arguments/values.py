"""Typed reading: a JSON value or the words after a --key become the type that the key declares, or an error."""

from __future__ import annotations

import json
import math
import re
from typing import Any, List, Tuple, Union, get_args, get_origin

NONE = type(None)
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_WHOLE = re.compile(r"[+-]?\d+")


def read_value(value: Any, hint: Any) -> Any:
    """Read a value from a file as `hint`.

    Raises:
        ValueError: it is not of that type; the message says what is allowed and what was given.
    """
    members = members_of(hint)
    if value is None and NONE in members:
        return None
    for member in members:
        accepted, result = _accept(value, member)
        if accepted:
            return result
    raise ValueError(f"must be {describe(hint)}, got {show(value)}{_advice(value, members)}")


def read_words(words: List[str], hint: Any) -> Any:
    """Read the words after a --key as `hint`; no word at all is a bare flag.

    Raises:
        ValueError: as read_value.
    """
    members = members_of(hint)
    if not words:
        if bool in members:
            return True
        raise ValueError(f"needs a value: {describe(hint)}")
    if len(words) > 1:
        if not any(get_origin(member) is list for member in members):
            raise ValueError(f"must be {describe(hint)}, got {len(words)} words: {' '.join(words)}; quote a text")
        has_numbers = any(get_origin(member) is list and get_args(member) == (float,) for member in members)
        return read_value([_number(word) for word in words] if has_numbers else list(words), hint)
    word = words[0]
    if word in ("null", "None") and NONE in members:
        return None
    return read_value(_typed(word, members), hint)


def members_of(hint: Any) -> Tuple[Any, ...]:
    """The types a hint allows, in reading order: Optional[Union[str, bool]] -> (bool, str, NoneType).

    Sorted here because typing caches unions: Union[str, int] may come back as an equal Union[int, str] made before.
    """
    members = get_args(hint) if get_origin(hint) is Union else (hint,)
    order = [bool, int, float, str, dict, list, NONE]
    return tuple(sorted(members, key=lambda member: order.index(get_origin(member) or member)))


def describe(hint: Any) -> str:
    """A type in the user's words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NONE: "null"}
    words[dict] = "an object"
    return " or ".join(words.get(get_origin(member) or member, "a list") for member in members_of(hint))


def show(value: Any) -> str:
    """A value as the user would write it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def is_accepted(value: Any, hint: Any) -> bool:
    """True when `value` is of the type already."""
    return any((value is None and member is NONE) or _accept(value, member)[0] for member in members_of(hint))


def _accept(value: Any, member: Any) -> Tuple[bool, Any]:
    """Whether `value` is of the type `member`, and what it becomes."""
    if member is bool:
        return isinstance(value, bool), value
    if member is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if member is float:
        return _accept_number(value)
    if member is str:
        return isinstance(value, str) and value not in ("None", "null"), value
    if get_origin(member) is dict:
        return _accept_object(value, get_args(member)[1])
    if get_origin(member) is list:
        return _accept_list(value, get_args(member)[0])
    return False, None


def _accept_number(value: Any) -> Tuple[bool, Any]:
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-4 as text, so people meet it in quotes
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False, None
    return True, float(value)


def _accept_object(value: Any, member: Any) -> Tuple[bool, Any]:
    if not isinstance(value, dict):
        return False, None
    return all(member is Any or _accept(item, member)[0] for item in value.values()), value


def _accept_list(value: Any, member: Any) -> Tuple[bool, Any]:
    if isinstance(value, str) and value not in ("None", "null") and member in (str, float):
        value = [part.strip() for part in value.split(",") if part.strip()]
        value = value if member is str else [_number(part) for part in value]
    if not isinstance(value, list):
        return False, None
    read = [_accept(item, member) for item in value]
    return all(accepted for accepted, _ in read), [item for _, item in read]


def _number(word: str) -> Any:
    """The number that a word spells, or the word."""
    try:
        return float(word)
    except ValueError:
        return word


def _typed(word: str, members: Tuple[Any, ...]) -> Any:
    """One word of a command line as the JSON value it means for these types."""
    has_objects = any(get_origin(member) is dict for member in members)
    if bool in members and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if int in members and _WHOLE.fullmatch(word):
        return int(word)
    if float in members:
        return _number(word)
    if (str not in members and word.startswith("[")) or (has_objects and word.startswith("{")):
        try:
            return json.loads(word)
        except ValueError:
            return word
    if members[0] is int and re.fullmatch(r"[+-]?\d+\.\d*", word):
        return float(word)  # so that the message speaks of the number 2.5, not of a text
    return word


def _advice(value: Any, members: Tuple[Any, ...]) -> str:
    """What to write instead, for the mistakes people make."""
    if value in ("None", "null"):
        return "; write null without quotes" if NONE in members else ""
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off") and bool in members:
        return f"; write {'true' if value.lower() in ('true', 'yes', 'on') else 'false'}"
    if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1) and bool in members:
        return f"; write {'true' if value else 'false'}"
    if isinstance(value, float) and value.is_integer() and int in members:
        return f"; write {int(value)}"
    if isinstance(value, str) and (int in members or float in members):
        return "; write the number without quotes" if re.fullmatch(r"[+-]?\d+(\.\d*)?", value) else ""
    return ""
