"""What can be wrong with a text: marks of chat templates in it, damaged encodings, answers that stop in the middle."""

from __future__ import annotations

import re
from typing import Iterable, Iterator, Sequence, Set

from paddle_sft.data.builtin_templates import MARKS

_ORDINARY = {"USER:", "ASSISTANT:", "### Instruction:", "### Response:"}
"""Marks that people write, too; looked for only when the template in use has them."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2028\u2029\ufeff]")
_SUSPECT = re.compile(
    r"[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]+"
)
"""How UTF-8 looks when it was read as Windows-1252."""


def template_marks(template: str, special_texts: Iterable[str] = ()) -> Set[str]:
    """What may not stand in a text: special tokens, and what templates write between messages."""
    marks = {mark for family in MARKS.values() for mark in family} - _ORDINARY
    return {mark for mark in marks | set(MARKS.get(template, ())) | set(special_texts) if len(mark) > 2}


def find_marks(text: str, marks: Set[str]) -> Iterator[str]:
    """What is wrong, in words."""
    for mark in sorted(mark for mark in marks if mark in text):
        yield f"holds {mark}, which a template or tokenizer reads as a border between messages"


def find_damage(text: str) -> Iterator[str]:
    """Signs that the text was decoded wrongly."""
    if "\ufffd" in text:
        yield f"holds U+FFFD at character {text.index(chr(0xFFFD))}: a byte that was no character was replaced there"
    for match in _SUSPECT.finditer(text):
        mended = _mend(match.group(0))
        if mended:
            yield f"holds {match.group(0)!r}, which is {mended!r} in UTF-8 read as Windows-1252"
            break
    control = _CONTROL.search(text)
    if control:
        yield f"holds the invisible character U+{ord(control.group(0)):04X} at character {control.start()}"


def _mend(text: str) -> str:
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        try:
            return text.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return ""


def find_broken_end(answer: str) -> Iterator[str]:
    """Signs that an answer stops in the middle."""
    if answer.count("```") % 2:
        yield "opens a ``` block and doesn't close it"
    ending = answer.rstrip()[-1:]
    if ending and ending in ",，、(（[{":
        yield f"ends with {ending!r}"


def find_role_order(roles: Sequence[str]) -> Iterator[str]:
    """Neighbours with one role, which most templates refuse or join."""
    for number, (one, other) in enumerate(zip(roles, roles[1:]), start=1):
        if one == other and one != "tool":
            yield f"messages {number} and {number + 1} are both the {one}'s"
