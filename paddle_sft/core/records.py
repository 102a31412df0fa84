"""The few records that cross a door between rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np

IGNORED = -100
"""The label of a token that is not trained: the value cross entropy ignores by default, never the pad id."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    """user or assistant."""
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and where they stood, so that every message can name file and line."""

    turns: Tuple[Turn, ...]
    place: str


@dataclass(frozen=True)
class Sample:
    """One tokenised sample.

    Shapes: ids [T] int32, trained [T] bool (true where the token is a target of the loss).
    """

    ids: np.ndarray
    trained: np.ndarray
    place: str = ""
    label: str = ""
    """Stage classification: the label of the whole sample as JSON text, such as '"good"', '3' or '["a", "b"]'."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """What it adds to the divisor of a step's loss: its trained targets (token 0 has no predecessor, so it can't be
        one), or one where the sample as a whole has a label."""
        return 1 if self.label else int(self.trained[1:].sum())

    @property
    def prompt_length(self) -> int:
        """Tokens before the first that is trained; all of them where none is."""
        return int(self.trained.argmax()) if self.trained.any() else len(self)
