"""Causal attention inside segments, computed segment by segment: no score between two samples ever exists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_sft.operators.cpu import SegmentAttention, is_compiled_for, starts_of

QUERY_BLOCK = 512
"""Queries of one product. A longer segment is cut, and each block meets only the keys it may see: half the work of a
full square, and scores of at most heads x 512 x length."""


@dataclass(frozen=True)
class Scoring:
    """What makes weights of Q K^T: softmax(scale * Q K^T + bias), some of them dropped."""

    scale: float
    window: int = 0
    """A query sees at most this many keys, itself included; 0 for no limit."""
    slopes: Optional[Tensor] = None
    """ALiBi slopes [H]: adds slope * (key position - query position) to the scores."""
    softcap: float = 0.0
    """Scores s become softcap * tanh(s / softcap) (Gemma 2, https://arxiv.org/abs/2408.00118); 0 for none."""
    dropout: float = 0.0
    """Share of the weights that are zero, drawn anew each time; the others grow by 1 / (1 - dropout). For training."""

    def capped(self, scores: Tensor) -> Tensor:
        return self.softcap * paddle.tanh(scores / self.softcap) if self.softcap else scores

    def weights(self, scores: Tensor) -> Tensor:
        weights = F.softmax(scores, axis=-1)
        return F.dropout(weights, self.dropout) if self.dropout else weights


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[Sequence[int]], scoring: Scoring
) -> Tensor:
    """softmax(scale * Q K^T + bias) V inside every segment, causally.

    Shapes: query [B, T, H, D], key and value [B, T, G, D] with G dividing H (grouped-query heads) -> [B, T, H, D].

    Args:
        segment_lengths: for each row the lengths of its segments, which add up to T; what fills a row is a segment too.
    """
    if scoring.slopes is None and not scoring.softcap and not scoring.dropout and is_compiled_for(query):
        return SegmentAttention.apply(query, key, value, starts_of(segment_lengths), scoring.window, scoring.scale)
    return composed_attention(query, key, value, segment_lengths, scoring)


def composed_attention(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[Sequence[int]], scoring: Scoring
) -> Tensor:
    """`segment_attention` by Paddle's operators."""
    lengths = [length for row in segment_lengths for length in row]
    rows, width = query.shape[:2]
    flat = [tensor.reshape([rows * width, *tensor.shape[2:]]) for tensor in (query, key, value)]
    if len(set(lengths)) == 1:
        parts = [tensor.reshape([len(lengths), lengths[0], *tensor.shape[1:]]) for tensor in flat]
        return _equal_segments(*parts, scoring).reshape(query.shape)
    # split, not slices: the gradient of a slice is a zero tensor of the whole row for every segment
    parts = [paddle.split(tensor, lengths) for tensor in flat]
    done = [
        _equal_segments(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), scoring).squeeze(0) for q, k, v in zip(*parts)
    ]
    return paddle.concat(done).reshape(query.shape)


def cached_attention(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
    """The same for the last T of S tokens: query [B, T, H, D], key and value [B, S, G, D] -> [B, T, H, D]."""
    return _equal_segments(query, key, value, scoring)


def _equal_segments(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
    """query [N, L, H, D], key and value [N, S, G, D] -> [N, L, H, D]; the queries are the last L of S tokens."""
    num, length, heads, size = query.shape
    groups, past = key.shape[2], key.shape[1] - length
    share = heads // groups
    queries = (query * scoring.scale).transpose([0, 2, 1, 3]).reshape([num, groups, share, length, size])
    keys, values = key.transpose([0, 2, 3, 1]), value.transpose([0, 2, 1, 3])  # [N, G, D, S], [N, G, S, D]
    blocks = []
    for start, end in _blocks(length):
        seen = past + end
        first = max(0, past + start - scoring.window + 1) if scoring.window else 0
        whole = seen - first == past + length
        block = queries if end - start == length else queries[:, :, :, start:end]
        seen_keys, seen_values = (keys, values) if whole else (keys[:, :, :, first:seen], values[:, :, first:seen])
        scores = block.reshape([num, groups, share * (end - start), size]) @ seen_keys
        scores = scoring.capped(scores.reshape([num, groups, share, end - start, seen - first]))
        scores = scores + _bias(past + start, seen, first, scoring.window, scores.dtype)
        if scoring.slopes is not None:
            scores = scores + _alibi(scoring.slopes.reshape([groups, share, 1, 1]), first, seen)
        weights = scoring.weights(scores)
        mixed = weights.reshape([num, groups, share * (end - start), seen - first]) @ seen_values
        blocks.append(mixed.reshape([num, heads, end - start, size]))
    joined = blocks[0] if len(blocks) == 1 else paddle.concat(blocks, axis=2)
    return joined.transpose([0, 2, 1, 3])


def _blocks(length: int) -> List[tuple]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def _bias(start: int, end: int, first: int, window: int, dtype: object) -> Tensor:
    """0 where query row may see key column, a large negative number elsewhere: [end - start, end - first]."""
    row, column = np.arange(start, end)[:, None], np.arange(first, end)[None, :]
    hidden = column > row
    if window:
        hidden |= column <= row - window
    return paddle.to_tensor(np.where(hidden, np.float32(-1e30), np.float32(0.0))).astype(dtype)


def _alibi(slopes: Tensor, first: int, end: int) -> Tensor:
    """Slope times key position; the query's own position is the same for all its keys, which softmax doesn't see."""
    return slopes * paddle.arange(first, end, dtype="float32").astype(slopes.dtype)


def flashmask_attention(query: Tensor, key: Tensor, value: Tensor, row_ends: Tensor, scoring: Scoring) -> Tensor:
    """Paddle's kernel (GPU only, not run by us): row_ends [B, 1, T, 1] int32, the first row a key is hidden from.

    Shapes as in `segment_attention`; the scale is 1 / sqrt(D), and there are neither slopes nor a cap.
    """
    limits = {"window_size": (scoring.window - 1, 0)} if scoring.window else {}
    return F.flashmask_attention(
        query, key, value, startend_row_indices=row_ends, causal=True, dropout=scoring.dropout, **limits
    )


def default_scale(size: int) -> float:
    return 1.0 / math.sqrt(size)
