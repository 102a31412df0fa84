from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import DataError
from paddle_sft.data.split import split_draft
from paddle_sft.data.tokenize import Draft
from tests.data.lengths import apply_length_policy


def draft(head, *turns):
    """turns = (prompt tokens, answer tokens); ids count up from 0."""
    lengths = [length for turn in turns for length in turn]
    trained = np.append(np.zeros(head, bool), np.repeat([False, True] * len(turns), lengths))
    starts = head + np.cumsum([0] + [sum(turn) for turn in turns])[:-1]
    return Draft(np.arange(head + sum(lengths), dtype=np.int32), trained, starts.astype(np.int32), "train.json line 1")


def parts_of(one, max_length):
    return [(part.ids.tolist(), part.ids[part.trained].tolist()) for part in split_draft(one, max_length).parts]


def test_what_fits_is_left_as_it_is():
    one = draft(1, (2, 2))
    assert split_draft(one, 5).parts == (one,)


def test_turns_stay_whole_and_every_part_begins_with_the_head():
    assert parts_of(draft(1, (1, 1), (1, 1), (1, 2)), 5) == [
        ([0, 1, 2, 3, 4], [2, 4]), ([0, 5, 6, 7], [6, 7]),
    ]  # fmt: skip


def test_an_answer_that_does_not_fit_goes_on_behind_the_tokens_before_it():
    # room for 12 behind the head; a quarter of it is read again
    assert parts_of(draft(1, (2, 20)), 13) == [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ([0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21], [13, 14, 15, 16, 17, 18, 19, 20, 21]),
        ([0, 19, 20, 21, 22], [22]),
    ]


def test_of_a_prompt_that_does_not_fit_the_end_is_kept():
    assert parts_of(draft(1, (20, 3)), 9) == [([0, 17, 18, 19, 20, 21, 22, 23], [21, 22, 23])]


def test_the_report_counts_parts_repeats_and_what_is_left_out():
    samples, report = apply_length_policy(
        [draft(1, (20, 3)), draft(1, (2, 14)), draft(1, (2, 2))], "split", src_length=4, max_length=9
    )
    assert [sample.place for sample in samples] == [
        "train.json line 1 (part 1 of 1)", "train.json line 1 (part 1 of 3)", "train.json line 1 (part 2 of 3)",
        "train.json line 1 (part 3 of 3)", "train.json line 1",
    ]  # fmt: skip
    assert (report.num_split, report.num_parts, report.num_left_out, report.num_repeated) == (2, 4, 16, 6)
    text = "\n".join(report.lines())
    for words in [
        "length_policy=split made 4 samples of 2 of 3 rows (66.7%)",
        "trained twice: 6",
        "16 of 46 tokens left out",
    ]:
        assert words in text


def test_a_long_row_without_an_answer_is_refused_like_a_short_one():
    with pytest.raises(DataError, match="train nothing.*\n.*line 1: none of its 21 tokens is trained"):
        apply_length_policy([draft(1, (20, 0))], "split", src_length=4, max_length=9)


@settings(max_examples=300, deadline=None)
@given(
    head=st.integers(0, 4),
    turns=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5),
    max_length=st.integers(2, 20),
)
def test_each_answer_token_is_trained_in_exactly_one_part_and_no_part_is_too_long(head, turns, max_length):
    one = draft(head, *turns)
    split = split_draft(one, max_length)
    if len(one.ids) <= max_length:
        return
    trained = [token for part in split.parts for token in part.ids[part.trained].tolist()]
    wanted = one.ids[one.trained].tolist()
    assert len(set(trained)) == len(trained) and set(trained) <= set(wanted)
    # a token that would be alone in its part, with nothing before it, is no target; a head that takes too much goes
    has_head = 0 < head <= min(max_length // 2, max_length - 2)
    assert all(not has_head and token in one.turn_starts for token in set(wanted) - set(trained))
    seen = [token for part in split.parts for token in part.ids.tolist()]
    assert split.num_left_out == len(one.ids) - len(set(seen)) and split.num_repeated == len(seen) - len(set(seen))
    for part in split.parts:
        assert 2 <= len(part.ids) <= max_length and (np.diff(part.ids) > 0).all() and part.trained[1:].any()
        assert all(start < len(part.ids) for start in part.turn_starts)
