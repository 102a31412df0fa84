"""Cosines and sines of rotary positions, looked up by position."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.models.rope import Rope

Table = Tuple[Tensor, Tensor]


class RotaryTables:
    """Tables [positions, size] of the cosines and sines of a model's rotary positions.

    They are computed when a sample first needs them and doubled when a longer one comes: no position lies beyond their
    end. (PaddleNLP 3.0.0b4's own end at max_position_embeddings, and beyond it a lookup reads foreign memory.)
    """

    def __init__(self, rope: Rope) -> None:
        self.rope = rope
        self._kept: Dict[int, Table] = {}

    def look_up(
        self,
        positions: np.ndarray,
        segment_lengths: Sequence[Sequence[int]],
        extents: Optional[Sequence[Sequence[int]]] = None,
    ) -> Table:
        """cos and sin [B, T, 1, size] of positions [B, T] inside samples of these lengths.

        Args:
            segment_lengths: for each row the lengths of its samples; where a row is one sample, its positions may be
                those of its last tokens only.
            extents: for each row how far the positions of its samples reach, which decides how their tokens turn where
                the rope varies; None: the lengths themselves, as no position is skipped.
        """
        extents = extents or segment_lengths
        longest: Dict[int, int] = {}
        for length in (length for row in extents for length in row):
            key = self.rope.key(length)
            longest[key] = max(longest.get(key, 0), length)
        tables = {key: self._table(key, length) for key, length in longest.items()}
        starts = dict(zip(tables, np.cumsum([0] + [len(cos) for cos, _ in tables.values()])))
        index = paddle.to_tensor(positions + self._starts(starts, segment_lengths, extents))
        cos, sin = (_joined([table[part] for table in tables.values()])[index].unsqueeze(2) for part in (0, 1))
        return cos, sin

    def _starts(
        self, starts: Dict[int, int], segment_lengths: Sequence[Sequence[int]], extents: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """[B, T] (or [B, 1], if it is one for all): where the table of each token's sample begins."""
        if len(starts) == 1:
            return np.zeros((len(segment_lengths), 1), dtype=np.int64)
        of_rows = [
            np.repeat([starts[self.rope.key(extent)] for extent in reach], row)
            for reach, row in zip(extents, segment_lengths)
        ]
        return np.stack(of_rows).astype(np.int64)

    def _table(self, key: int, length: int) -> Table:
        kept = self._kept.get(key)
        if kept is not None and len(kept[0]) >= length:
            return kept
        if self.rope.kind == "dynamic" and key > self.rope.longest:  # a table for this very length, not worth keeping
            return self._compute(key, length)
        self._kept[key] = self._compute(key, 1 << (length - 1).bit_length())
        return self._kept[key]

    def _compute(self, key: int, num_positions: int) -> Table:
        angles = np.arange(num_positions, dtype=np.float32)[:, None] * self.rope.frequencies(key)
        factor = np.float32(self.rope.attention_factor)
        halves = [np.concatenate([half * factor] * 2, axis=1) for half in (np.cos(angles), np.sin(angles))]
        return paddle.to_tensor(halves[0]), paddle.to_tensor(halves[1])


def _joined(parts: List[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else paddle.concat(parts)
