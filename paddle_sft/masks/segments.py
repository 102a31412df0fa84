"""Attention masks and positions of a packed row, from the lengths of its segments.

The form that attention uses is one number a token (FlashMask, https://arxiv.org/abs/2410.01359): for each key column,
the first query row that may no longer see it, besides the causal rule. paddle.nn.functional.flashmask_attention takes
it with causal=True, as startend_row_indices [B, 1, T, 1] int32. The dense forms [T, T] are its slow and obvious
oracles: at 4,096 tokens one is 16.8 MB.

A segment is a sample of the row. Padding is the last segment: it sees itself, so no softmax is empty, and nobody else
sees it. A segment may also be a group [prompt, answer, answer, ...]: several answers to one prompt, which stands in the
row once.
"""

from __future__ import annotations

from typing import List, Sequence, Union

import numpy as np

Segment = Union[int, Sequence[int]]
"""Tokens of a sample, or of [prompt, answer, answer, ...], whose answers all see the prompt and none another."""


def as_groups(row: Sequence[Segment]) -> List[List[int]]:
    """The segments of a row, each as a group; an ordinary sample is a group of one part.

    Raises:
        ValueError: a group without parts, or an empty part.
    """
    parts = [[segment] if isinstance(segment, (int, np.integer)) else segment for segment in row]
    return [checked_group(group).tolist() for group in parts]


def shares_prefix(row: Sequence[Segment]) -> bool:
    """Whether a segment of the row is a prompt with answers."""
    return any(not isinstance(segment, (int, np.integer)) and len(segment) > 1 for segment in row)


def with_padding(segment_lengths: Sequence[Segment], row_length: int) -> List[Segment]:
    """The segments with the padding up to `row_length` as one more, where there is any.

    Raises:
        ValueError: a segment is empty, or they are longer than the row.
    """
    num_tokens = sum(sum(group) for group in as_groups(segment_lengths))
    padding = row_length - num_tokens
    if padding < 0:
        raise ValueError(f"segments of {num_tokens} tokens do not fit a row of {row_length}")
    return [*segment_lengths, padding] if padding else list(segment_lengths)


def row_ends(segment_lengths: Sequence[int]) -> np.ndarray:
    """FlashMask form [T] int32: a token is seen up to the end of its segment."""
    lengths = checked(segment_lengths)
    return np.repeat(np.cumsum(lengths), lengths).astype(np.int32)


def position_ids(segment_lengths: Sequence[int]) -> np.ndarray:
    """Positions [T] int64 that start again at 0 in every segment, as if it stood in a row of its own."""
    lengths = checked(segment_lengths)
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def cumulative_lengths(segment_lengths: Sequence[int]) -> np.ndarray:
    """Where segments start, and the end [segments + 1] int32: the cu_seqlens of variable-length attention kernels."""
    return np.concatenate([[0], np.cumsum(checked(segment_lengths))]).astype(np.int32)


def window_row_ends(segment_lengths: Sequence[int], window: int) -> np.ndarray:
    """FlashMask form [T] int32 of a sliding window: a token is seen by itself and the `window` - 1 tokens after it.

    `window` counts the keys that a token sees, itself among them, as sliding_window does in the configs of Mistral and
    Qwen2. The window_size of paddle's own kernels does not count the token itself: it is one less.

    Raises:
        ValueError: the window is empty, or a segment is.
    """
    check_window(window)
    ends = row_ends(segment_lengths)
    return np.minimum(ends, np.arange(ends.size) + window).astype(np.int32)


def shared_prefix_row_ends(groups: Sequence[Sequence[int]], window: int = 0) -> np.ndarray:
    """FlashMask form [T] int32 of prompts with several answers each.

    A group is [prompt, answer, answer, ...] in tokens and lies in the row in this order. Every answer sees the prompt
    and itself, none sees another. [length] is an ordinary sample, [padding] the padding. Only as far back as `window`,
    counted in positions of the answer's own text; 0 for no limit.

    Raises:
        ValueError: a group has no part, or a part is empty; or the window ends inside an answer of several: their
            rows that still see a token of the prompt are not in one piece, which one number can't say.
    """
    if not window_fits(groups, window):
        raise ValueError(f"a window of {window} tokens ends inside one of several answers to a prompt")
    ends = [np.zeros(0, dtype=np.int64)]
    start = 0
    for group in groups:
        parts = checked_group(group)
        stops = start + np.cumsum(parts)
        begin, start = start, int(stops[-1])
        stops[0] = start  # the prompt is seen up to the end of its last answer
        seen = np.repeat(stops, parts)
        if window and len(parts) <= 2:  # of several answers none is longer than the window
            seen = np.minimum(seen, np.arange(begin, start) + window)
        ends.append(seen)
    return np.concatenate(ends).astype(np.int32)


def window_fits(groups: Sequence[Sequence[int]], window: int) -> bool:
    """Whether `shared_prefix_row_ends` can say what a window leaves: no prompt of several answers leaves an answer's
    sight before its end."""
    if not window:
        return True
    return not any(len(group) > 2 and window < group[0] + max(group[1:]) for group in groups)


def shared_prefix_position_ids(groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Positions [T] int64: every answer goes on where its prompt ends, as if it were the only one. Groups as above."""
    positions = [np.zeros(0, dtype=np.int64)]
    for group in groups:
        prompt, *answers = checked_group(group).tolist()
        positions.append(np.arange(prompt))
        positions += [np.arange(prompt, prompt + answer) for answer in answers]
    return np.concatenate(positions)


def dense_from_row_ends(ends: np.ndarray) -> np.ndarray:
    """What a FlashMask form means: [T, T] bool, true where query row i may see key column j. O(T * T) memory."""
    row = np.arange(ends.size)[:, None]
    return (row >= np.arange(ends.size)) & (row < ends)


def dense_causal(segment_lengths: Sequence[int]) -> np.ndarray:
    """Oracle of `row_ends` [T, T] bool: same segment, and not later."""
    lengths = checked(segment_lengths)
    segment = np.repeat(np.arange(lengths.size), lengths)
    row, column = np.indices((segment.size, segment.size))
    return (segment[row] == segment[column]) & (column <= row)


def dense_window(segment_lengths: Sequence[int], window: int) -> np.ndarray:
    """Oracle of `window_row_ends` [T, T] bool: same segment, not later, and fewer than `window` tokens ago."""
    check_window(window)
    mask = dense_causal(segment_lengths)
    row, column = np.indices(mask.shape)
    return mask & (row - column < window)


def dense_shared_prefix(groups: Sequence[Sequence[int]], window: int = 0) -> np.ndarray:
    """Oracle of `shared_prefix_row_ends` [T, T] bool: same group, not later, the prompt or the same answer, and fewer
    than `window` positions ago (0 for no limit)."""
    parts = [(group, part) for group, lengths in enumerate(groups) for part in range(checked_group(lengths).size)]
    lengths = checked([length for group in groups for length in group])
    group, part = (np.repeat([pair[side] for pair in parts], lengths) for side in (0, 1))
    row, column = np.indices((group.size, group.size))
    same_part = part[row] == part[column]
    mask = (group[row] == group[column]) & (column <= row) & ((part[column] == 0) | same_part)
    positions = shared_prefix_position_ids(groups)
    return mask & (positions[row] - positions[column] < window) if window else mask


def check_window(window: int) -> None:
    """Raises:
    ValueError: the window is empty.
    """
    if window < 1:
        raise ValueError(f"a sliding window holds at least the token itself, got {window}")


def checked_group(group: Sequence[int]) -> np.ndarray:
    """`group` as an int64 array [parts].

    Raises:
        ValueError: it has no part, or an empty one.
    """
    if not len(group):
        raise ValueError("a group is [prompt, answer, ...] in tokens, got an empty one")
    return checked(group)


def checked(segment_lengths: Sequence[int]) -> np.ndarray:
    """`segment_lengths` as an int64 array [segments].

    Raises:
        ValueError: a segment is empty: it would have no row in any form, and its number would shift.
    """
    lengths = np.asarray(segment_lengths, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 1).any():
        raise ValueError(f"segment lengths must be a flat list of numbers of at least 1, got {list(segment_lengths)}")
    return lengths
