"""Rows of samples: what one line of a batch holds. Without packing a row is a sample."""

from __future__ import annotations

from typing import List, Optional, Sequence

import numpy as np

from paddle_sft.core.records import Sample
from paddle_sft.packing.packs import Packs


class Rows:
    """The rows of a training set, in the packer's order (the step plan shuffles them anew each epoch)."""

    def __init__(self, samples: Sequence[Sample], packs: Optional[Packs] = None) -> None:
        self.samples = samples
        self._packs = packs
        trained = np.array([sample.num_trained for sample in samples], dtype=np.int64)
        lengths = np.array([len(sample) for sample in samples], dtype=np.int64)
        self.num_trained = trained if packs is None else packs.tokens(trained)
        """Trained tokens of each row."""
        self.num_tokens = lengths if packs is None else packs.tokens(lengths)
        """Tokens of each row."""

    def __len__(self) -> int:
        return len(self.samples) if self._packs is None else len(self._packs)

    def __getitem__(self, row: int) -> List[Sample]:
        """The samples of one row, in order."""
        return [self.samples[row]] if self._packs is None else [self.samples[index] for index in self._packs[row]]
