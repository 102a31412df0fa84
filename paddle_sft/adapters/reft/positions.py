"""Where ReFT edits: the first and last tokens of each sample's prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import ArgumentError
from paddle_sft.masks.segments import Segment, as_groups


@dataclass(frozen=True)
class Positions:
    """How many tokens at each end of a prompt."""

    first: int
    last: int

    def of_prompt(self, length: int) -> Tuple[np.ndarray, np.ndarray]:
        """The first and the last positions of a prompt. Of a short one each end gets at most half, as in pyreft, so no
        token is edited twice."""
        first, last = min(self.first, length // 2), min(self.last, length // 2)
        return np.arange(first), np.arange(length - last, length)

    def of_rows(
        self, segment_lengths: Sequence[Sequence[Segment]], prompt_lengths: Optional[Sequence[Sequence[int]]]
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The same of all samples of rows, as places among the tokens of all rows, one row behind the other.

        Args:
            prompt_lengths: for each row of its samples; segments behind the last of them have no prompt. None: a
                segment is a prompt as a whole, or [prompt, answer, ...].
        """
        found: Tuple[List[np.ndarray], List[np.ndarray]] = ([], [])
        start = 0
        for number, row in enumerate(segment_lengths):
            groups = as_groups(row)
            prompts = [group[0] for group in groups] if prompt_lengths is None else list(prompt_lengths[number])
            for group, prompt in zip(groups, prompts + [0] * (len(groups) - len(prompts))):
                for places, more in zip(found, self.of_prompt(prompt)):
                    places.append(start + more)
                start += sum(group)
        return np.concatenate(found[0]), np.concatenate(found[1])


def read_positions(text: str) -> Positions:
    """f7: the first 7 tokens of a prompt; l7: the last 7; f7+l5: both.

    Raises:
        ArgumentError: anything else.
    """
    ends = [re.fullmatch(r"([fl])([1-9]\d*)", part) for part in text.split("+")]
    names = "".join(end.group(1) if end else "?" for end in ends)
    if names not in ("f", "l", "fl"):
        raise ArgumentError(
            f"position is {text!r}; allowed are f7 (the first 7 tokens of the prompt), l7 (the last 7) and f7+l7 "
            "(both), with any numbers from 1"
        )
    numbers = {end.group(1): int(end.group(2)) for end in ends}
    return Positions(numbers.get("f", 0), numbers.get("l", 0))
