"""length_policy split: a sample that is too long becomes several, and each answer token is trained in exactly one.

Whole turns are kept together as long as they fit; a part begins with the head (begin token, system message) and doesn't
see the turns of earlier parts. A turn that doesn't fit by itself is cut: every cut begins with the head and a quarter
of its room of the tokens just before, which are there to be read and are not trained again. What is left of a prompt
longer than its room is not in any part. src_length has no part in this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from paddle_sft.data.tokenize import Draft

_SHARE_READ_AGAIN = 4
"""A cut begins with 1 / this of its room of earlier tokens."""


@dataclass(frozen=True)
class Split:
    """The parts of one draft (itself alone when it fits), and the tokens that are in none or in several."""

    parts: Tuple[Draft, ...]
    num_left_out: int = 0
    num_repeated: int = 0


def split_draft(draft: Draft, max_length: int) -> Split:
    """Parts of at most `max_length` tokens, each with a trained token."""
    length = len(draft.ids)
    if length <= max_length:
        return Split((draft,))
    head = int(draft.turn_starts[0]) if len(draft.turn_starts) else 0
    head = head if head <= min(max_length // 2, max_length - 2) else 0  # else it would leave no room for a turn
    room = max_length - head
    found = []  # (first token, first trained token, end)
    for start, end in _groups(draft, room):
        found += [(start, start, end)] if end - start <= room else _cut(draft, start, end, room)
    found = [(start, fresh, end) for start, fresh, end in found if _is_target(draft, head, start, fresh, end)]
    seen = np.zeros(length, dtype=np.int64)
    parts = []
    for number, (start, fresh, end) in enumerate(found, start=1):
        index = np.concatenate([np.arange(head), np.arange(start, end)])
        seen[index] += 1
        trained = draft.trained[index] & ((index >= fresh) | ((number == 1) & (index < head)))
        starts = [head, *(head + int(one) - start for one in draft.turn_starts if start < one < end)]
        place = f"{draft.place} (part {number} of {len(found)})"
        parts.append(Draft(draft.ids[index], trained, np.array(starts, dtype=np.int32), place))
    return Split(tuple(parts), int((seen == 0).sum()), int((seen[seen > 1] - 1).sum()))


def _groups(draft: Draft, room: int) -> List[Tuple[int, int]]:
    """[start, end) of consecutive turns that fit into `room` together, or of one turn that doesn't fit."""
    bounds = [int(one) for one in draft.turn_starts] or [0]
    ends = bounds[1:] + [len(draft.ids)]
    groups: List[Tuple[int, int]] = []
    for start, end in zip(bounds, ends):
        if groups and end - groups[-1][0] <= room:
            groups[-1] = (groups[-1][0], end)
        else:
            groups.append((start, end))
    return groups


def _cut(draft: Draft, start: int, end: int, room: int) -> List[Tuple[int, int, int]]:
    trained = np.flatnonzero(draft.trained[start:end])
    if not len(trained):
        return []
    read_again = room // _SHARE_READ_AGAIN
    fresh = start + int(trained[0])
    first = max(start, fresh - max(room // 2, 1))
    cuts = []
    while fresh < end:
        stop = min(first + room, end)
        cuts.append((first, fresh, stop))
        fresh = stop
        first = max(start, fresh - max(read_again, 1))
    return cuts


def _is_target(draft: Draft, head: int, start: int, fresh: int, end: int) -> bool:
    """Whether the part has a trained token with a predecessor."""
    trained = draft.trained[fresh:end]
    return bool(trained[1:].any() or (trained[:1].any() and (head or fresh > start)))
