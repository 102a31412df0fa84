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
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Sample
from paddle_sft.data.problems import Problems
from paddle_sft.data.split import split_draft
from paddle_sft.data.tokenize import Draft

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
    "split": drop,  # finds nothing too long: `apply_length_policy` splits first
    "drop": drop,
    "error": drop,  # never gets to drop: `apply_length_policy` raises on the first look
}


@dataclass(frozen=True)
class LengthReport:
    """What was read, cut and dropped. Lengths in tokens; `lines()` is what the start-up plan prints."""

    policy: str
    src_length: int
    max_length: int
    num_rows: int = 0
    """Conversations or documents read."""
    num_samples: int = 0
    """Samples, or blocks in stage pretrain, that training sees."""
    num_truncated: int = 0
    num_targets_truncated: int = 0
    """Samples of which a kept turn lost trained tokens, usually the end of the answer and its end token."""
    num_turns_removed: int = 0
    num_dropped: int = 0
    num_without_trained: int = 0
    """Samples dropped because no trained token was left in them."""
    num_split: int = 0
    """Rows of which policy split made several samples."""
    num_parts: int = 0
    """Samples that these rows became."""
    num_left_out: int = 0
    """Of split rows, tokens that are in no sample."""
    num_repeated: int = 0
    """Of split rows, tokens that are there to be read again; not trained twice."""
    longest: int = 0
    longest_place: str = ""
    tokens_before: int = 0
    tokens_after: int = 0
    trained_tokens: int = 0
    """Tokens that are targets of the loss; the first token of a sample is not, it has no predecessor."""
    is_blocks: bool = False
    """Documents joined and cut into blocks (stage pretrain)."""
    last_block: int = 0
    """Length of the last block."""

    def lines(self) -> List[str]:
        """Readable lines; nothing that was cut or dropped is left out."""
        share = 100 * self.trained_tokens / max(self.tokens_after, 1)
        tokens = f"{self.tokens_after:,} tokens, {self.trained_tokens:,} of them trained ({share:.1f}%)"
        longest = f"{self.longest:,} tokens ({self.longest_place})"
        if self.is_blocks:
            return self._block_lines(tokens, longest)
        lines = [f"{self.num_rows:,} rows -> {self.num_samples:,} samples, {tokens}", f"longest row: {longest}"]
        limits = f"max_length {self.max_length:,}"
        if self.policy == "truncate_source":
            limits = f"src_length {self.src_length:,} and {limits}"
        if self.num_dropped:
            lines.append(f"length_policy={self.policy} removed {self._of_rows(self.num_dropped)} longer than {limits}")
        if self.num_split:
            lines.append(
                f"length_policy=split made {self.num_parts:,} samples of {self._of_rows(self.num_split)} longer than "
                f"{limits}; tokens read again and not trained twice: {self.num_repeated:,}"
            )
        if self.num_truncated:
            cut = f"length_policy={self.policy} shortened {self._of_rows(self.num_truncated)} to {limits}"
            if self.num_turns_removed:
                cut += f"; turns removed whole: {self.num_turns_removed:,}"
            if self.num_targets_truncated:
                cut += f"; rows that lost part of an answer: {self.num_targets_truncated:,}"
            lines.append(cut)
        if self.num_without_trained:
            lines.append(f"removed {self._of_rows(self.num_without_trained)} with no trained token left")
        lost = self.tokens_before - self.tokens_after + self.num_repeated
        lines.append(f"{lost:,} of {self.tokens_before:,} tokens left out" if lost else "nothing was cut or removed")
        return lines

    def _block_lines(self, tokens: str, longest: str) -> List[str]:
        lines = [
            f"{self.num_rows:,} documents -> {self.num_samples:,} blocks of {self.max_length:,} tokens "
            f"(the last has {self.last_block:,}), {tokens}",
            f"longest document: {longest}",
        ]
        lost = self.tokens_before - self.tokens_after
        if lost:
            lines.append(f"{lost:,} token left over at the end is left out")
        return lines

    def _of_rows(self, num: int) -> str:
        return f"{num:,} of {self.num_rows:,} rows ({100 * num / max(self.num_rows, 1):.1f}%)"


def apply_length_policy(
    drafts: Sequence[Draft], policy: str, *, src_length: int, max_length: int
) -> Tuple[List[Sample], LengthReport]:
    """Cut or drop what is too long, and count it. Kept samples have at least one trained target.

    Raises:
        ArgumentError: no such policy.
        DataError: a sample is too long under policy "error" (all of them are named), or no sample is left.
    """
    choose_tokens = choose("length_policy", policy, POLICIES)
    if policy == "error":
        _refuse_too_long(drafts, max_length)
    counts: Counter = Counter()
    samples = []
    for draft in _split_all(drafts, max_length, counts) if policy == "split" else drafts:
        sample = _shorten(draft, choose_tokens(draft, src_length, max_length), counts)
        if sample is not None:
            samples.append(sample)
    longest = max(drafts, key=lambda draft: len(draft.ids), default=None)
    if not samples:
        raise DataError(_nothing_left(drafts, policy, counts, max_length))
    report = LengthReport(
        policy=policy,
        src_length=src_length,
        max_length=max_length,
        num_rows=len(drafts),
        num_samples=len(samples),
        longest=len(longest.ids),
        longest_place=longest.place,
        tokens_before=sum(len(draft.ids) for draft in drafts),
        tokens_after=sum(len(sample) for sample in samples),
        trained_tokens=sum(sample.num_trained for sample in samples),
        **counts,
    )
    return samples, report


def _split_all(drafts: Sequence[Draft], max_length: int, counts: Counter) -> Iterator[Draft]:
    for draft in drafts:
        split = split_draft(draft, max_length)
        if len(draft.ids) > max_length:
            counts["num_split" if split.parts else "num_without_trained"] += 1
            counts["num_parts"] += len(split.parts)
            counts["num_left_out"] += split.num_left_out
            counts["num_repeated"] += split.num_repeated
        yield from split.parts


def _shorten(draft: Draft, keep: np.ndarray, counts: Counter) -> Optional[Sample]:
    """The sample of the kept tokens, or None when it is dropped; says in `counts` (by report field) what happened."""
    whole = bool(keep.all())
    if len(keep) and not keep.any():
        counts["num_dropped"] += 1
        return None
    sample = Sample(draft.ids, draft.trained, draft.place)
    if not whole:
        sample = Sample(draft.ids[keep], draft.trained[keep], draft.place)
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


def _refuse_too_long(drafts: Sequence[Draft], max_length: int) -> None:
    problems = Problems()
    for draft in drafts:
        if len(draft.ids) > max_length:
            problems.add(f"{draft.place}: {len(draft.ids):,} tokens")
    problems.raise_any(
        f"length_policy=error and rows longer than max_length {max_length:,}; "
        "raise max_length, shorten the rows, or choose length_policy truncate_source or drop"
    )


def _nothing_left(drafts: Sequence[Draft], policy: str, counts: Counter, max_length: int) -> str:
    if not drafts:
        return "the data has no rows; is max_samples 0?"
    first = drafts[0]
    return (
        f"no sample is left to train on: of {len(drafts):,} rows length_policy={policy} removed "
        f"{counts['num_dropped']:,} as longer than max_length {max_length:,}, and {counts['num_without_trained']:,} "
        f"have no trained token left. The first is {first.place}: {len(first.ids):,} tokens, "
        f"{int(first.trained.sum()):,} trained. Raise max_length, or choose length_policy truncate_source."
    )
