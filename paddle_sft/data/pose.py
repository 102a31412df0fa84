"""PoSE: positions that skip, so that short samples train a model for long ones (Zhu et al. 2023,
https://arxiv.org/abs/2309.10400).

A sample of n tokens is cut in two at a random place, and its second part begins a random number of positions later, at
most so much that its last token has the last position of the length that is trained for. Over many samples every
distance up to that length occurs, while attention computes n tokens. The text stays as it is, and so do its labels:
the paper's v_i = 0, where others also skip text.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from paddle_sft.data.collate import Batch


def skip_positions(num_tokens: int, target: int, draw: np.random.Generator) -> np.ndarray:
    """Positions [num_tokens] int64 of a sample, from 0, below `target` (section 3.2 of the paper with N = 2 chunks).

    The first chunk has 1 to num_tokens - 1 tokens, the skip is 0 to target - num_tokens positions, each equally likely.
    A sample of one token, or of `target` tokens and more, stays as it is.
    """
    positions = np.arange(num_tokens, dtype=np.int64)
    if 1 < num_tokens < target:
        positions[draw.integers(1, num_tokens) :] += draw.integers(0, target - num_tokens + 1)
    return positions


@dataclass(frozen=True)
class SkippedPositions:
    """Draws positions for the batches of a run: anew in each step, so also in each epoch."""

    target: int
    """Positions go up to target - 1 (pose_max_length)."""
    seed: int

    def place(self, batch: Batch, step: int) -> Batch:
        """The batch with a position for each token; padding is at 0, where no sample looks.

        A sample's draw depends on the seed, the optimizer step and the sample's tokens alone: not on the row it is
        packed into, nor on ranks or accumulation.
        """
        positions = np.zeros_like(batch.input_ids)
        for row, lengths in enumerate(batch.sample_lengths):
            start = 0
            for length in lengths:
                ids = batch.input_ids[row, start : start + length]
                draw = np.random.default_rng([self.seed, step, zlib.crc32(ids.tobytes())])
                positions[row, start : start + length] = skip_positions(length, self.target, draw)
                start += length
        return replace(batch, positions=positions)
