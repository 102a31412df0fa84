"""Causal attention inside segments, computed segment by segment: no score between two samples ever exists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_sft.masks.segments import Segment, as_groups, shares_prefix
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


class Wanted:
    """The tokens of rows [B, T] that alone are asked for, by their numbers among all B * T, which ascend."""

    def __init__(self, places: np.ndarray) -> None:
        self.places = places.astype(np.int64)
        """[N]"""
        self._places = paddle.to_tensor(self.places)

    def take(self, everything: Tensor) -> Tensor:
        """[B, T, ...] -> [1, N, ...]."""
        return paddle.gather(everything.reshape([-1, *everything.shape[2:]]), self._places).unsqueeze(0)


def segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[Sequence[Segment]],
    scoring: Scoring,
    wanted: Optional[Wanted] = None,
) -> Tensor:
    """softmax(scale * Q K^T + bias) V inside every segment, causally.

    Shapes: query [B, T, H, D], key and value [B, T, G, D] with G dividing H (grouped-query heads) -> [B, T, H, D], or
    [1, N, H, D] of what is wanted.

    Args:
        segment_lengths: for each row the lengths of its segments, which add up to T; what fills a row is a segment too.
            A segment may be [prompt, answer, answer, ...]: the answers see the prompt, and none another.
        wanted: the tokens whose attention is asked for; None: all.
    """
    shared = any(shares_prefix(row) for row in segment_lengths)
    if not shared and not beyond_kernels(scoring) and not scoring.dropout and is_compiled_for(query):
        rows = (starts_of(segment_lengths), scoring.window, scoring.scale)
        if wanted is None:
            return SegmentAttention.apply(query, key, value, *rows)
        return SegmentAttention.apply(wanted.take(query), key, value, *rows, wanted.places)
    mixed = composed_attention(query, key, value, segment_lengths, scoring)
    return mixed if wanted is None else wanted.take(mixed)


def beyond_kernels(scoring: Scoring) -> str:
    """What of a scoring neither Paddle's kernel nor the compiled operator computes; empty if they compute it."""
    if scoring.slopes is not None:
        return "ALiBi"
    return "a soft cap on scores" if scoring.softcap else ""


def composed_attention(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[Sequence[Segment]], scoring: Scoring
) -> Tensor:
    """`segment_attention` by Paddle's operators."""
    groups = [group for row in segment_lengths for group in as_groups(row)]
    lengths = [length for group in groups for length in group]
    rows, width = query.shape[:2]
    flat = [tensor.reshape([rows * width, *tensor.shape[2:]]) for tensor in (query, key, value)]
    if len(set(lengths)) == 1 and len(groups) == len(lengths):
        parts = [tensor.reshape([len(lengths), lengths[0], *tensor.shape[1:]]) for tensor in flat]
        return _equal_segments(*parts, scoring).reshape(query.shape)
    # split, not slices: the gradient of a slice is a zero tensor of the whole row for every segment
    parts = zip(*(paddle.split(tensor.unsqueeze(0), lengths, axis=1) for tensor in flat))
    done = [mixed for group in groups for mixed in _group([next(parts) for _ in group], scoring)]
    return paddle.concat(done, axis=1).reshape(query.shape)


def _group(parts: List[Tuple[Tensor, Tensor, Tensor]], scoring: Scoring) -> List[Tensor]:
    """Attention of a prompt [1, P, H, D] and of its answers, each behind the prompt as if it were the only one."""
    (query, key, value), *answers = parts
    mixed = [_equal_segments(query, key, value, scoring)]
    for query, own_key, own_value in answers:
        keys, values = paddle.concat([key, own_key], axis=1), paddle.concat([value, own_value], axis=1)
        mixed.append(_equal_segments(query, keys, values, scoring))
    return mixed


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
    """Paddle's kernel (GPU only, not run by us): row_ends [B, 1, T, 1] int32, the first row a key is hidden from, where
    the scoring's window is in already.

    Shapes as in `segment_attention`. The kernel's own scale is 1 / sqrt(D), so the queries bring the rest; it has
    neither slopes nor a cap.
    """
    if scoring.scale != default_scale(query.shape[-1]):
        query = query * (scoring.scale / default_scale(query.shape[-1]))
    return F.flashmask_attention(query, key, value, startend_row_indices=row_ends, causal=True, dropout=scoring.dropout)


def default_scale(size: int) -> float:
    return 1.0 / math.sqrt(size)
