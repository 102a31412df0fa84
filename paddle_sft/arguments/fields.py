"""How an argument is declared: one call per key, and everything else (reading, help, schema, docs) comes from it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union, get_type_hints

from paddle_sft.arguments.values import is_accepted
from paddle_sft.core.errors import ArgumentError


@dataclass(frozen=True)
class Choices:
    """The values a key may take."""

    allowed: Tuple[Any, ...] = ()
    """Empty: any value of the right type."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Other documents' spelling of a value -> ours, for example pt -> pretrain."""
    pattern: str = ""
    """Regular expression of further values, matched whole."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Values that are known but not available yet -> what to do instead."""

    def allow(self, value: Any) -> bool:
        """True when the value is one of the allowed, or there is no limit."""
        if not self.allowed or value in self.allowed:
            return True
        return bool(self.pattern) and isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class Bounds:
    """The numbers a key may take: minimum <= value <= maximum, `strict` excludes the ends, `also` lies outside them."""

    minimum: Optional[float] = None
    maximum: Optional[float] = None
    strict_minimum: bool = False
    strict_maximum: bool = False
    also: Tuple[float, ...] = ()

    def allow(self, value: float) -> bool:
        """True when the number lies inside, or is one of `also`."""
        if value in self.also:
            return True
        if self.minimum is not None and (value < self.minimum or (self.strict_minimum and value == self.minimum)):
            return False
        return self.maximum is None or value < self.maximum or (not self.strict_maximum and value == self.maximum)

    def describe(self) -> str:
        """The range in words, as messages and docs print it."""
        parts = []
        if self.minimum is not None:
            parts.append(f"{'above' if self.strict_minimum else 'at least'} {self.minimum:g}")
        if self.maximum is not None:
            parts.append(f"{'below' if self.strict_maximum else 'at most'} {self.maximum:g}")
        words = " and ".join(parts)
        return words + "".join(f", or {value:g}" for value in self.also)


@dataclass(frozen=True)
class NotYet:
    """A key whose feature is not built: accepted where it switches the feature off, refused by name elsewhere."""

    instead: str
    """One sentence: what to use until then."""
    off: Tuple[Any, ...] = ()
    """Values that mean off, beside the default."""


POSITIVE = Bounds(minimum=1)
NOT_NEGATIVE = Bounds(minimum=0)
ABOVE_ZERO = Bounds(minimum=0, strict_minimum=True)
FRACTION = Bounds(minimum=0, maximum=1)
DROPOUT = Bounds(minimum=0, maximum=1, strict_maximum=True)
DEVICES = Choices(
    ("gpu", "cpu"),
    pattern=r"gpu:\d+",
    refused={name: "use gpu or cpu" for name in ("xpu", "npu", "mlu", "gcu", "dcu")},
)
POSITIVE_OR_OFF = Bounds(minimum=1, also=(-1,))


def argument(
    default: Any,
    help: str,
    zh: str,
    *,
    aliases: Tuple[str, ...] = (),
    choices: Union[Tuple[Any, ...], Choices] = (),
    bounds: Optional[Bounds] = None,
    not_yet: Optional[NotYet] = None,
    rows: Tuple[int, ...] = (),
) -> Any:
    """Declare one key of a dataclass; its type is the annotation beside it.

    help and zh are its meaning in English and Chinese. rows are the rows of the requirements that name it, for the
    test that no row is forgotten.
    """
    chosen = choices if isinstance(choices, Choices) else Choices(tuple(choices))
    metadata = {
        "help": help,
        "help_zh": zh,
        "aliases": tuple(aliases),
        "choices": chosen,
        "bounds": bounds,
        "not_yet": not_yet,
        "available": not_yet is None,
        "rows": tuple(rows),
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """One key as the reader, the help, the schema and the docs see it."""

    name: str
    group: str
    hint: Any
    default: Any
    help: str
    zh: str = ""
    aliases: Tuple[str, ...] = ()
    choices: Choices = field(default_factory=Choices)
    bounds: Optional[Bounds] = None
    not_yet: Optional[NotYet] = None
    rows: Tuple[int, ...] = ()

    @property
    def available(self) -> bool:
        """False for a key that is only accepted at a value that switches it off."""
        return self.not_yet is None

    @property
    def off_values(self) -> List[Any]:
        """The values of its type that leave a feature that is not available yet switched off, the default first."""
        off: List[Any] = []
        for value in (self.default, *(self.not_yet.off if self.not_yet else ())):
            if is_accepted(value, self.hint) and value not in off:
                off.append(value)
        return off

    def is_off(self, value: Any) -> bool:
        """True when `value`, which is of the key's type, is one of off_values."""
        return value in self.off_values


def keys_of(owner: type, group: str) -> Dict[str, Key]:
    """Every key that the dataclass `owner` declares, in order."""
    hints = get_type_hints(owner)
    keys = {}
    for item in dataclasses.fields(owner):
        about = item.metadata
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
        keys[item.name] = Key(
            name=item.name,
            group=group,
            hint=hints[item.name],
            default=default,
            help=about["help"],
            zh=about["help_zh"],
            aliases=about["aliases"],
            choices=about["choices"],
            bounds=about["bounds"],
            not_yet=about["not_yet"],
            rows=about["rows"],
        )
    return keys


def limit_problems(key: Key, value: Any) -> List[str]:
    """What is wrong with a value of the right type: not one of the choices, or out of range. Empty when nothing is."""
    problems = []
    for item in value if isinstance(value, list) else [value]:
        if item is None:
            continue
        if isinstance(item, str) and item in key.choices.refused:
            problems.append(f"{key.name} {item!r} is not available yet; {key.choices.refused[item]}")
        elif not key.choices.allow(item):
            problems.append(f"{key.name} must be one of {listed(key.choices.allowed)}, got {item!r}")
        elif key.bounds and isinstance(item, (int, float)) and not isinstance(item, bool):
            if not key.bounds.allow(item):
                problems.append(f"{key.name} must be {key.bounds.describe()}, got {item!r}")
    return problems


def listed(values: Tuple[Any, ...]) -> str:
    """Values in a message, separated by commas."""
    return ", ".join(str(value) for value in values)


class Checked:
    """Base of the argument dataclasses: also one that code makes directly is within choices and bounds."""

    def __post_init__(self) -> None:
        keys = keys_of(type(self), "")
        problems = [line for key in keys.values() for line in limit_problems(key, getattr(self, key.name))]
        if problems:
            raise ArgumentError("\n".join(problems))
