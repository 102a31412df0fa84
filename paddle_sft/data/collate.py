"""Rows of samples to one padded batch. Labels are shifted here, once, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.records import IGNORED, Sample
from paddle_sft.masks.segments import with_padding


@dataclass(frozen=True)
class Batch:
    """Shapes: input_ids [B, T] int64, labels [B, T] int64, T = the longest row. Padding is on the right.

    labels[b, t] is what the logits at t should predict: ids[b, t + 1] where that token is trained and belongs to the
    same sample, else IGNORED. Causal attention keeps right padding from being seen and its labels are IGNORED, so the
    pad id never matters.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    segment_lengths: Tuple[Tuple[int, ...], ...]
    """For each row the lengths of its samples and of its padding, if any: they add up to T. One sample a row needs no
    boundary: then it is (T,), padding included, which lets equal rows be computed together."""
    num_trained: int
    """Labels that are not IGNORED, or samples with a label as a whole: the denominator of this batch's loss."""
    sample_lengths: Tuple[Tuple[int, ...], ...]
    """For each row the lengths of its samples."""
    sample_labels: Tuple[str, ...]
    """Labels of the samples as wholes, row by row, as JSON text; empty texts outside stage classification."""
    prompt_lengths: Tuple[Tuple[int, ...], ...] = ()
    """For each row, of its samples the tokens before the first that is trained; all of a sample without such."""
    positions: Optional[np.ndarray] = None
    """[B, T] int64: positions of the tokens in their samples (`data.pose`); None: from 0 on in each."""

    def last_tokens(self) -> Tuple[np.ndarray, np.ndarray]:
        """Row and position [N] of the last token of each sample, row by row."""
        rows = np.repeat(np.arange(len(self.sample_lengths)), [len(lengths) for lengths in self.sample_lengths])
        return rows, np.concatenate([np.cumsum(lengths) - 1 for lengths in self.sample_lengths])


def collate(samples: Sequence[Sample], pad_token_id: int) -> Batch:
    """One sample a row, padded to the longest of them.

    Raises:
        ValueError: no samples, or no pad token id.
    """
    return collate_rows([[sample] for sample in samples], pad_token_id)


def collate_rows(rows: Sequence[Sequence[Sample]], pad_token_id: int) -> Batch:
    """Several samples a row, one behind the other, padded to the longest row.

    Raises:
        ValueError: no rows, or no pad token id.
    """
    if not rows:
        raise ValueError("collate got no samples; a batch needs at least one")
    if pad_token_id is None:
        raise ValueError("pad_token_id is None; any token will do (the end token, say), padding is never trained")
    shape = (len(rows), max(sum(len(sample) for sample in row) for row in rows))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for number, row in enumerate(rows):
        start = 0
        for sample in row:
            end = start + len(sample)
            input_ids[number, start:end] = sample.ids
            labels[number, start : end - 1] = np.where(sample.trained[1:], sample.ids[1:], IGNORED)
            start = end
    return Batch(
        input_ids,
        labels,
        _segments(rows, shape[1]),
        sum(sample.num_trained for row in rows for sample in row),
        tuple(tuple(len(sample) for sample in row) for row in rows),
        tuple(sample.label for row in rows for sample in row),
        tuple(tuple(sample.prompt_length for sample in row) for row in rows),
    )


def _segments(rows: Sequence[Sequence[Sample]], width: int) -> Tuple[Tuple[int, ...], ...]:
    if all(len(row) == 1 for row in rows):
        return ((width,),) * len(rows)
    return tuple(tuple(with_padding([len(sample) for sample in row], width)) for row in rows)
