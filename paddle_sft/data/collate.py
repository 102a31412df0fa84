"""Samples to one padded batch. Labels are shifted here, once, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from paddle_sft.core.records import IGNORED, Sample


@dataclass(frozen=True)
class Batch:
    """Shapes: input_ids [B, T] int64, labels [B, T] int64, T = the longest sample. Padding is on the right.

    labels[b, t] is what the logits at t should predict: ids[b, t + 1] where that token is trained, else IGNORED.
    Causal attention keeps right padding from being seen and its labels are IGNORED, so the pad id never matters.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    num_trained: int
    """How many labels are not IGNORED: the denominator of this batch's loss."""


def collate(samples: Sequence[Sample], pad_token_id: int) -> Batch:
    """Pad the samples to the longest of them.

    Raises:
        ValueError: no samples, or no pad token id.
    """
    if not samples:
        raise ValueError("collate got no samples; a batch needs at least one")
    if pad_token_id is None:
        raise ValueError("pad_token_id is None; any token will do (the end token, say), padding is never trained")
    shape = (len(samples), max(len(sample) for sample in samples))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for row, sample in enumerate(samples):
        input_ids[row, : len(sample)] = sample.ids
        labels[row, : len(sample) - 1] = np.where(sample.trained[1:], sample.ids[1:], IGNORED)
    return Batch(input_ids, labels, int((labels != IGNORED).sum()))
