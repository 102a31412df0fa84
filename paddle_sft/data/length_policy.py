"""What happens to samples that are too long: chosen by the user, counted, never silent.

A policy only says which tokens stay (a bool mask [T]), so it can't change an id or move a label. The default,
`truncate_source`, gives `src_length` the meaning it has in PaddleNLP: every prompt is cut to `src_length` tokens (the
begin token counts), from the left, so that the words nearest the answer stay. Where the whole is still longer than
`max_length` it parts with PaddleNLP, which cuts the answer: here the earliest turns go first, then more of the last
prompt, and the answer stays whole as long as it fits in `max_length` by itself. `split` (module `split`) makes several
samples of one.
"""

from __future__ import annotations

from collections import Counter
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.catalogue import choose
from paddle_sft.core.records import Sample
from paddle_sft.data.length_report import LengthLimits, Tally
from paddle_sft.data.split import split_draft
from paddle_sft.data.store import SampleBlock
from paddle_sft.data.tokenize import Draft, DraftBlock

Policy = Callable[[Draft, int, int], np.ndarray]
"""(draft, src_length, max_length) -> bool [T], true where a token stays. At most max_length stay; none = dropped."""


def truncate_source(draft: Draft, src_length: int, max_length: int) -> np.ndarray:
    """Cut prompts to src_length from the left, then drop early turns, then cut the last prompt further.

    Only when the last answer doesn't fit beside the head does it lose its end; its prompt then keeps what it has, up to
    half of max_length, for an answer to nothing would teach nothing.
    """
    keep = np.ones(len(draft.ids), dtype=bool)
    if len(draft.ids) <= min(src_length, max_length):
        return keep  # so no prompt is over src_length either; spares the usual sample the loop below
    if not len(draft.turn_starts):
        return truncate_right(draft, src_length, max_length)
    head = int(draft.turn_starts[0])
    ends = np.append(draft.turn_starts[1:], len(draft.ids))
    prompts = []  # (start, end) of what is left of each prompt
    for start, end in zip(draft.turn_starts, ends):
        prompt_end = start + _num_leading_untrained(draft.trained[start:end])
        room = max(src_length - (head if not prompts else 0), 0)
        prompts.append((max(start, prompt_end - room), prompt_end))
        keep[start : prompts[-1][0]] = False
    excess = int(keep.sum()) - max_length
    for start, end in zip(draft.turn_starts[:-1], ends[:-1]):
        if excess <= 0:
            break
        excess -= int(keep[start:end].sum())
        keep[start:end] = False
    if excess <= 0:
        return keep
    start, end = prompts[-1]
    if excess <= end - start:
        keep[start : start + excess] = False
        return keep
    keep[start : max(start, end - max(max_length // 2 - head, 0))] = False
    keep[np.flatnonzero(keep)[max_length:]] = False
    return keep


def _num_leading_untrained(trained: np.ndarray) -> int:
    return int(trained.argmax()) if trained.any() else len(trained)


def truncate_right(draft: Draft, src_length: int, max_length: int) -> np.ndarray:
    """Keep the first max_length tokens."""
    return np.arange(len(draft.ids)) < max_length


def truncate_left(draft: Draft, src_length: int, max_length: int) -> np.ndarray:
    """Keep the head (the begin token) and the last tokens."""
    position = np.arange(len(draft.ids))
    head = min(int(draft.turn_starts[0]) if len(draft.turn_starts) else 0, max_length)
    return (position < head) | (position >= len(draft.ids) - (max_length - head))


def drop(draft: Draft, src_length: int, max_length: int) -> np.ndarray:
    """Keep all or nothing."""
    return np.full(len(draft.ids), len(draft.ids) <= max_length)


POLICIES: Dict[str, Policy] = {
    "truncate_source": truncate_source,
    "truncate_right": truncate_right,
    "truncate_left": truncate_left,
    "split": drop,  # finds nothing too long: `fit_to_length` splits first
    "drop": drop,
    "error": drop,  # what it drops is refused in the end
}


def fit_to_length(drafts: DraftBlock, limits: LengthLimits, tally: Tally) -> SampleBlock:
    """Cut or drop what is too long, and count it in `tally`. Kept samples have a trained target or a label.

    Rows of which no token is trained, and with policy "error" those that are too long, are noted in the tally.

    Raises:
        ArgumentError: no such policy.
    """
    choose("length_policy", limits.policy, POLICIES)
    lengths = drafts.lengths
    whole = SampleBlock(drafts.ids, drafts.trained, lengths, drafts.places, drafts.labels)
    num_trained = whole.num_trained
    tally.read(lengths, drafts.places, num_trained)
    _note_refusals(drafts, limits, tally)
    limit = limits.max_length
    if limits.policy == "truncate_source":
        limit = min(limit, limits.src_length)  # no prompt is longer than the whole, so up to here all stays
    closer = np.flatnonzero((lengths > limit) | (num_trained == 0))
    if not len(closer):
        return tally.keep(whole)
    samples = {int(index): list(_fit_one(drafts[index], limits, tally)) for index in closer}
    return tally.keep(_replaced(whole, samples))


def _note_refusals(drafts: DraftBlock, limits: LengthLimits, tally: Tally) -> None:
    if not drafts.labels:
        trained = np.add.reduceat(np.append(drafts.trained, False), drafts.starts) if len(drafts) else np.zeros(0)
        for index in np.flatnonzero((trained == 0) | (drafts.lengths == 0)):
            tally.untrained.add(
                f"{drafts.places[index]}: none of its {drafts.lengths[index]:,} tokens is trained; remove the line"
            )
    if limits.policy == "error":
        for index in np.flatnonzero(drafts.lengths > limits.max_length):
            tally.too_long.add(f"{drafts.places[index]}: {drafts.lengths[index]:,} tokens")


def _fit_one(draft: Draft, limits: LengthLimits, tally: Tally) -> Iterator[Sample]:
    for part in _split(draft, limits.max_length, tally.counts) if limits.policy == "split" else [draft]:
        keep = POLICIES[limits.policy](part, limits.src_length, limits.max_length)
        sample = _shorten(part, keep, tally.counts)
        if sample is not None:
            yield sample


def _replaced(block: SampleBlock, samples: Mapping[int, Sequence[Sample]]) -> SampleBlock:
    """The block with other samples (or none) in place of those at the keys, which are in order."""
    ends = np.cumsum(block.lengths)
    pieces: List[SampleBlock] = []
    first = 0
    for index in [*samples, len(block)]:
        start, end = (int(ends[number - 1]) if number else 0 for number in (first, index))
        pieces.append(
            SampleBlock(
                block.ids[start:end],
                block.trained[start:end],
                block.lengths[first:index],
                block.places[first:index],
                block.labels[first:index],
            )
        )
        if index < len(block):
            pieces.append(SampleBlock.of(samples[index]))
        first = index + 1
    return SampleBlock(
        np.concatenate([piece.ids for piece in pieces]),
        np.concatenate([piece.trained for piece in pieces]),
        np.concatenate([piece.lengths for piece in pieces]),
        [place for piece in pieces for place in piece.places],
        [label for piece in pieces for label in piece.labels],
    )


def _split(draft: Draft, max_length: int, counts: Counter) -> Tuple[Draft, ...]:
    split = split_draft(draft, max_length)
    if len(draft.ids) > max_length:
        counts["num_split" if split.parts else "num_without_trained"] += 1
        counts["num_parts"] += len(split.parts)
        counts["num_left_out"] += split.num_left_out
        counts["num_repeated"] += split.num_repeated
    return split.parts


def _shorten(draft: Draft, keep: np.ndarray, counts: Counter) -> Optional[Sample]:
    """The sample of the kept tokens, or None when it is dropped; says in `counts` (by report field) what happened."""
    whole = bool(keep.all())
    if len(keep) and not keep.any():
        counts["num_dropped"] += 1
        return None
    sample = Sample(draft.ids, draft.trained, draft.place, draft.label)
    if not whole:
        sample = Sample(draft.ids[keep], draft.trained[keep], draft.place, draft.label)
    if not sample.num_trained:
        counts["num_without_trained"] += 1
        return None
    if not whole:
        removed, targets_cut = _inspect_turns(draft, keep)
        counts["num_truncated"] += 1
        counts["num_turns_removed"] += removed
        counts["num_targets_truncated"] += targets_cut
    return sample


def _inspect_turns(draft: Draft, keep: np.ndarray) -> Tuple[int, bool]:
    """(number of turns gone whole, whether a turn that stayed lost trained tokens)."""
    removed, targets_cut = 0, False
    for start, end in zip(draft.turn_starts, np.append(draft.turn_starts[1:], len(draft.ids))):
        kept = keep[start:end]
        if end > start and not kept.any():
            removed += 1
        elif (draft.trained[start:end] & ~kept).any():
            targets_cut = True
    return removed, targets_cut
