"""What a packing saves and how far it is from the best possible, proved from the lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import numpy as np

from paddle_sft.packing.check import checked
from paddle_sft.packing.lower_bound import lower_bound
from paddle_sft.packing.packs import Packs


@dataclass(frozen=True)
class Certificate:
    """A packing in numbers. `certify` makes one, after checking that the rows are a packing of the samples."""

    num_samples: int
    num_rows: int
    tokens: int
    """Tokens of all samples, padding not counted."""
    capacity: int
    """Tokens a row holds."""
    lower_bound: int
    """No packing of these samples into such rows has fewer rows."""

    @property
    def efficiency(self) -> float:
        """Share of the rows' tokens that are not padding, 0 to 1; 1 when there is nothing to pack."""
        return self.tokens / (self.num_rows * self.capacity) if self.num_rows else 1.0

    @property
    def gap(self) -> float:
        """Rows above the lower bound as a share of it; the distance to the best packing is at most this."""
        return (self.num_rows - self.lower_bound) / self.lower_bound if self.num_rows else 0.0

    def lines(self) -> List[str]:
        """The certificate to read. Efficiency is rounded down and the gap up, so neither says more than is true."""
        rows, bound = self.num_rows, self.lower_bound
        if not rows:
            return ["Packing: no samples, no rows."]
        efficiency = 10_000 * self.tokens // (rows * self.capacity)
        above = rows - bound
        gap = -(-10_000 * above // bound)
        distance = f"{above:,} above it ({gap / 100:.2f} %)" if above else "exactly that, the best possible"
        return [
            f"Packing: {self.num_samples:,} samples, {self.tokens:,} tokens, {rows:,} rows of {self.capacity:,}.",
            f"Efficiency {efficiency / 100:.2f} %. No packing has fewer than {bound:,} rows; this is {distance}.",
        ]


def certify(packs: Packs, lengths: np.ndarray, capacity: int) -> Certificate:
    """Check that `packs` holds every sample once and no row too much, and measure it. O(samples + capacity).

    Shapes: lengths [samples].

    Raises:
        ValueError: it is no packing of these samples: a fault of the packer, which must not reach training.
    """
    lengths = checked(lengths, capacity)
    indices = packs.indices
    known = indices.size == 0 or 0 <= indices.min() <= indices.max() < lengths.size
    if not known or (np.bincount(indices, minlength=lengths.size) != 1).any():
        raise ValueError(f"the rows do not hold each of the {lengths.size} samples exactly once")
    tokens = packs.tokens(lengths)
    if tokens.size and not 0 < tokens.min() <= tokens.max() <= capacity:
        raise ValueError(f"the rows hold {tokens.min()} to {tokens.max()} tokens, and a row holds 1 to {capacity}")
    bound = lower_bound(np.bincount(lengths), capacity) if lengths.size else 0
    return Certificate(lengths.size, len(packs), int(lengths.sum()), capacity, bound)
