"""What the length policy did to the data of a run, counted over chunks of it and said once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import List, Optional, Sequence

import numpy as np

from paddle_sft.core.errors import DataError
from paddle_sft.data.problems import Problems
from paddle_sft.data.store import SampleBlock


@dataclass(frozen=True)
class LengthLimits:
    """What the user says about lengths, in tokens."""

    policy: str
    src_length: int
    max_length: int


@dataclass(frozen=True)
class LengthReport:
    """What was read, cut and dropped. Lengths in tokens; `lines()` is what the start-up plan prints."""

    limits: LengthLimits
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
    num_cut: int = 0
    """Documents, each a sample by itself, of which max_length made several."""
    num_pieces: int = 0
    """Samples that these documents became."""
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
    is_labelled: bool = False
    """Texts with a label each (stage classification): no token is trained."""

    def lines(self) -> List[str]:
        """Readable lines; nothing that was cut or dropped is left out."""
        share = 100 * self.trained_tokens / max(self.tokens_after, 1)
        tokens = f"{self.tokens_after:,} tokens"
        if not self.is_labelled:
            tokens += f", {self.trained_tokens:,} of them trained ({share:.1f}%)"
        longest = f"{self.longest:,} tokens ({self.longest_place})"
        if self.is_blocks:
            return self._block_lines(tokens, longest)
        lines = [f"{self.num_rows:,} rows -> {self.num_samples:,} samples, {tokens}", f"longest row: {longest}"]
        policy, limits = self.limits.policy, f"max_length {self.limits.max_length:,}"
        if policy == "truncate_source":
            limits = f"src_length {self.limits.src_length:,} and {limits}"
        if self.num_dropped:
            lines.append(f"length_policy={policy} removed {self._of_rows(self.num_dropped)} longer than {limits}")
        if self.num_split:
            lines.append(
                f"length_policy=split made {self.num_parts:,} samples of {self._of_rows(self.num_split)} longer than "
                f"{limits}; tokens read again and not trained twice: {self.num_repeated:,}"
            )
        if self.num_cut:
            lines.append(
                f"documents longer than max_length {self.limits.max_length:,}: {self._of_rows(self.num_cut)}, cut into "
                f"{self.num_pieces:,} samples"
            )
        if self.num_truncated:
            cut = f"length_policy={policy} shortened {self._of_rows(self.num_truncated)} to {limits}"
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
            f"{self.num_rows:,} documents -> {self.num_samples:,} blocks of {self.limits.max_length:,} tokens "
            f"(the last has {self.last_block:,}), {tokens}",
            f"longest document: {longest}",
        ]
        lost = self.tokens_before - self.tokens_after
        if lost:
            lines.append(f"{lost:,} token left over at the end is left out")
        return lines

    def _of_rows(self, num: int) -> str:
        return f"{num:,} of {self.num_rows:,} rows ({100 * num / max(self.num_rows, 1):.1f}%)"


@dataclass
class Tally:
    """Counts for a LengthReport, and what must be refused. What is counted in chunks adds up to the same."""

    counts: Counter = field(default_factory=Counter)
    """By field of LengthReport."""
    longest: int = 0
    longest_place: str = ""
    first: str = ""
    """The first row and its length, for the message when nothing is left."""
    last_block: int = 0
    untrained: Problems = field(default_factory=Problems)
    too_long: Problems = field(default_factory=Problems)

    def read(self, lengths: np.ndarray, places: Sequence[str], num_trained: Optional[np.ndarray] = None) -> None:
        """Count rows as they are before the policy. lengths and num_trained [N] int64 in tokens."""
        self.counts["num_rows"] += len(lengths)
        self.counts["tokens_before"] += int(lengths.sum())
        if len(lengths) and lengths.max() > self.longest:
            index = int(lengths.argmax())
            self.longest, self.longest_place = int(lengths[index]), places[index]
        if len(lengths) and not self.first:
            self.first = f"{places[0]}: {lengths[0]:,} tokens"
            self.first += "" if num_trained is None else f", {num_trained[0]:,} trained"

    def keep(self, block: SampleBlock) -> SampleBlock:
        """Count samples that training sees."""
        self.counts["num_samples"] += len(block)
        self.counts["tokens_after"] += len(block.ids)
        self.counts["trained_tokens"] += 0 if block.labels else int(block.num_trained.sum())
        return block

    def extend(self, later: Tally) -> None:
        """Add what was counted of the chunk behind."""
        self.counts.update(later.counts)
        if later.longest > self.longest:
            self.longest, self.longest_place = later.longest, later.longest_place
        self.first = self.first or later.first
        self.last_block = later.last_block or self.last_block
        self.untrained.extend(later.untrained)
        self.too_long.extend(later.too_long)

    def refuse(self, limits: LengthLimits) -> None:
        """
        Raises:
            DataError: rows that train nothing; rows that are too long under policy error. All of them are named.
        """
        self.untrained.raise_any("rows that would train nothing")
        self.too_long.raise_any(
            f"length_policy=error and rows longer than max_length {limits.max_length:,}; "
            "raise max_length, shorten the rows, or choose length_policy truncate_source or drop"
        )

    def report(self, limits: LengthLimits, **kind: bool) -> LengthReport:
        """All that was counted; `kind` is is_blocks or is_labelled.

        Raises:
            DataError: no sample is left.
        """
        if not self.counts["num_samples"]:
            raise DataError(self._nothing_left(limits))
        return LengthReport(
            limits,
            longest=self.longest,
            longest_place=self.longest_place,
            last_block=self.last_block,
            **self.counts,
            **kind,
        )

    def _nothing_left(self, limits: LengthLimits) -> str:
        num_rows = self.counts["num_rows"]
        if not num_rows:
            return "the data has no rows; is max_samples 0?"
        return (
            f"no sample is left to train on: of {num_rows:,} rows length_policy={limits.policy} removed "
            f"{self.counts['num_dropped']:,} as longer than max_length {limits.max_length:,}, and "
            f"{self.counts['num_without_trained']:,} have no trained token left. The first is {self.first}. Raise "
            "max_length, or choose length_policy truncate_source."
        )
