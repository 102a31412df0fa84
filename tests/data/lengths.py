"""The length policy over a list of drafts, as one chunk of a run."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from paddle_sft.core.records import Sample
from paddle_sft.data.length_policy import fit_to_length
from paddle_sft.data.length_report import LengthLimits, LengthReport, Tally
from paddle_sft.data.tokenize import Draft, DraftBlock


def apply_length_policy(
    drafts: Sequence[Draft], policy: str, src_length: int, max_length: int
) -> Tuple[List[Sample], LengthReport]:
    """The samples of the drafts and what is reported; raises as a run would."""
    limits, tally = LengthLimits(policy, src_length, max_length), Tally()
    block = fit_to_length(DraftBlock.of(drafts), limits, tally)
    tally.refuse(limits)
    return list(block), tally.report(limits)
