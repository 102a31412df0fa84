"""Rows in which virtual tokens, which no text has, stand before every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence

import numpy as np

from paddle_sft.masks.segments import Segment, as_groups, shared_prefix_position_ids


@dataclass(frozen=True)
class VirtualRows:
    """Rows [B, W] of virtual tokens and of the tokens of rows [B, T]. Rows with fewer samples are filled at their end.

    A row that is a prompt with several answers has the virtual tokens once, before the prompt.
    """

    num_virtual: int
    segment_lengths: List[List[Segment]]
    """Each row adds up to W."""
    sources: np.ndarray
    """[B, W] int64: the virtual token of each place, from 0 on; or num_virtual + the number of its token among all B T;
    0 where a row is filled."""
    places: np.ndarray
    """[B T] int64: where each token stands among all B W places."""

    def positions(self, of_tokens: Optional[np.ndarray]) -> np.ndarray:
        """[B, W] int64. The tokens' own [B, T] go on where the virtual ones end; None: from 0 on in each sample."""
        if of_tokens is None:
            return np.stack([shared_prefix_position_ids(as_groups(row)) for row in self.segment_lengths])
        known = np.concatenate([np.arange(self.num_virtual), self.num_virtual + of_tokens.reshape(-1)])
        return known[self.sources]


def put_before(segment_lengths: Sequence[Sequence[Segment]], num_virtual: int, multiple: int = 1) -> VirtualRows:
    """Put `num_virtual` tokens before every segment of rows that are equally long; before what fills a row too, which
    nobody else sees.

    Args:
        multiple: the rows' length becomes one of this.

    Raises:
        ValueError: an empty segment.
    """
    rows: List[List[Segment]] = []
    sources: List[np.ndarray] = []
    first = num_virtual
    for row in segment_lengths:
        longer: List[Segment] = []
        pieces: List[np.ndarray] = []
        for prompt, *answers in as_groups(row):
            length = prompt + sum(answers)
            longer.append([num_virtual + prompt, *answers] if answers else num_virtual + prompt)
            pieces += [np.arange(num_virtual), np.arange(first, first + length)]
            first += length
        rows.append(longer)
        sources.append(np.concatenate(pieces))
    width = -(-max(len(row) for row in sources) // multiple) * multiple
    filled = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(sources):
        filled[number, : len(row)] = row
        if len(row) < width:
            rows[number].append(width - len(row))
    return VirtualRows(num_virtual, rows, filled, np.flatnonzero(filled >= num_virtual))
