"""The values of a run before they are frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Set, Tuple

Problem = Tuple[Tuple[str, ...], str]
"""The keys it is about, and the message. Not reported when one of these keys already has a problem of its own."""


@dataclass
class Draft:
    """All values of a run before they are frozen."""

    values: Dict[str, Any]
    given: Set[str]
    derived: Dict[str, Tuple[Any, str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def has(self, name: str) -> bool:
        """True when the user gave the key a value other than null."""
        return name in self.given and self.values[name] is not None

    def derive(self, name: str, value: Any, why: str) -> None:
        """Set a value that the user did not give, and remember why."""
        self.values[name] = value
        self.derived[name] = (value, why)

    def note(self, name: str, why: str) -> None:
        """Say that a value the user gave has no effect, and why; it stays as written."""
        self.derived[name] = (self.values[name], why)
