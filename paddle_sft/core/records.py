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

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """Trained targets of this sample: token 0 has no predecessor, so it can't be one."""
        return int(self.trained[1:].sum())
