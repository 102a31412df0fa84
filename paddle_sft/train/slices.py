"""Batches for ranks that share the tokens of a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

import numpy as np

from paddle_sft.core.records import IGNORED
from paddle_sft.data.collate import Batch


def widen(batch: Batch, multiple: int, fill: int) -> Batch:
    """Fill the rows of a batch on the right until their length is a multiple; nothing there is trained or seen."""
    rows, width = batch.input_ids.shape
    more = -width % multiple
    if not more:
        return batch
    positions = batch.positions
    if positions is not None:
        positions = np.concatenate([positions, positions[:, -1:] + np.arange(1, more + 1)], axis=1)
    return replace(
        batch,
        input_ids=np.pad(batch.input_ids, ((0, 0), (0, more)), constant_values=fill),
        labels=np.pad(batch.labels, ((0, 0), (0, more)), constant_values=IGNORED),
        segment_lengths=tuple(_longer(row, more) for row in batch.segment_lengths),
        positions=positions,
    )


def _longer(segments: Tuple[int, ...], more: int) -> Tuple[int, ...]:
    """One sample a row needs no boundary before its filling (see `Batch.segment_lengths`)."""
    return (segments[0] + more,) if len(segments) == 1 else (*segments, more)


def part_of_rows(batch: Batch, part: int, parts: int) -> Batch:
    """One of several equal parts of each row: its tokens and labels. Segments and positions stay those of the rows, for
    attention is computed on whole rows."""
    width = batch.input_ids.shape[1] // parts
    here = slice(part * width, (part + 1) * width)
    return replace(batch, input_ids=batch.input_ids[:, here], labels=batch.labels[:, here])
