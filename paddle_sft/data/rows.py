"""Rows of samples: what one line of a batch holds. Without packing a row is a sample."""

from __future__ import annotations

import zlib
from typing import List, Optional

import numpy as np

from paddle_sft.core.records import Sample
from paddle_sft.data.store import SampleStore
from paddle_sft.packing.packs import Packs


class Rows:
    """The rows of an epoch, in the packer's order (the feed shuffles them anew).

    Args:
        numbers: [m] which samples the epoch has; a sample may be there several times. None: each once.
        packs: which of them share a row, by place in `numbers`; None for one a row.
    """

    def __init__(
        self, samples: SampleStore, numbers: Optional[np.ndarray] = None, packs: Optional[Packs] = None
    ) -> None:
        self._samples = samples
        self._numbers = np.arange(len(samples)) if numbers is None else numbers
        self.packs = packs
        trained, lengths = samples.num_trained[self._numbers], samples.lengths[self._numbers]
        self.lengths = lengths
        """[m] int64: tokens of each sample."""
        self.num_trained = trained if packs is None else packs.tokens(trained)
        """[rows] int64: trained tokens of each row."""
        self.num_tokens = lengths if packs is None else packs.tokens(lengths)
        """[rows] int64: tokens of each row."""

    def __len__(self) -> int:
        return len(self._numbers) if self.packs is None else len(self.packs)

    def digest(self) -> bytes:
        """Tells these rows from others."""
        packs = () if self.packs is None else (self.packs.indices, self.packs.offsets)
        return b"".join(zlib.crc32(one.tobytes()).to_bytes(4, "big") for one in (self._numbers, *packs))

    def numbers(self, row: int) -> np.ndarray:
        """Numbers of the samples of one row."""
        return self._numbers[row : row + 1] if self.packs is None else self._numbers[self.packs[row]]

    def __getitem__(self, row: int) -> List[Sample]:
        """The samples of one row, in order."""
        return [self._samples[number] for number in self.numbers(row)]
