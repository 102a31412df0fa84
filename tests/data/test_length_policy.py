from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.length_policy import POLICIES
from paddle_sft.data.tokenize import Draft
from tests.data.lengths import apply_length_policy


def draft(head, *turns, place="train.json line 1"):
    """turns = (prompt tokens, answer tokens); ids count up from 0, so that what was kept can be read off."""
    lengths = [length for turn in turns for length in turn]
    trained = np.repeat([False, True] * len(turns), lengths)
    starts = head + np.cumsum([0] + [sum(turn) for turn in turns])[:-1]
    total = head + sum(lengths)
    return Draft(
        np.arange(total, dtype=np.int32), np.append(np.zeros(head, bool), trained), starts.astype(np.int32), place
    )


def shorten(one, policy, src_length=100, max_length=100):
    samples, report = apply_length_policy([one], policy, src_length=src_length, max_length=max_length)
    return samples[0].ids.tolist(), report


@pytest.mark.parametrize("policy", POLICIES)
def test_what_fits_is_left_as_it_is(policy):
    ids, report = shorten(draft(1, (3, 4), (2, 2)), policy, max_length=12)
    assert ids == list(range(12))
    assert (report.num_truncated, report.num_dropped, report.tokens_before, report.tokens_after) == (0, 0, 12, 12)
    assert "nothing was cut or removed" in report.lines()


@pytest.mark.parametrize(
    "one, src_length, max_length, kept",
    [
        # the prompt loses its left end, the begin token counts, the answer stays
        (draft(1, (5, 3)), 4, 100, [0, 3, 4, 5, 6, 7, 8]),
        (draft(0, (5, 3)), 4, 100, [1, 2, 3, 4, 5, 6, 7]),
        # each turn's prompt has src_length tokens
        (draft(1, (3, 1), (4, 1)), 3, 100, [0, 2, 3, 4, 6, 7, 8, 9]),
        # and then what doesn't fit goes: prompt first
        (draft(1, (5, 3)), 100, 6, [0, 4, 5, 6, 7, 8]),
        (draft(1, (5, 3)), 100, 4, [0, 6, 7, 8]),
        # early turns go before the last prompt does
        (draft(1, (2, 2), (2, 2), (2, 2)), 100, 12, [0, 5, 6, 7, 8, 9, 10, 11, 12]),
        (draft(1, (2, 2), (2, 2), (2, 2)), 100, 5, [0, 9, 10, 11, 12]),
        (draft(1, (2, 2), (2, 2), (2, 2)), 100, 4, [0, 10, 11, 12]),
        # an answer that doesn't fit by itself is cut at its end; the prompt keeps up to half
        (draft(1, (2, 10)), 100, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (draft(1, (6, 10)), 100, 8, [0, 4, 5, 6, 7, 8, 9, 10]),
        (draft(0, (0, 10)), 100, 8, list(range(8))),
    ],
)
def test_truncate_source_keeps_the_answer_and_the_words_nearest_to_it(one, src_length, max_length, kept):
    assert shorten(one, "truncate_source", src_length, max_length)[0] == kept


def test_truncate_right_and_left_keep_one_end():
    assert shorten(draft(1, (5, 4)), "truncate_right", max_length=8)[0] == list(range(8))
    assert shorten(draft(1, (5, 4)), "truncate_left", max_length=6)[0] == [0, 5, 6, 7, 8, 9]


def test_trained_tokens_stay_beside_their_ids():
    one = draft(1, (5, 3), (4, 4))
    trained_ids = set(one.ids[one.trained].tolist())
    for policy in ("truncate_source", "truncate_right", "truncate_left"):
        (sample,), _ = apply_length_policy([one], policy, src_length=3, max_length=11)
        assert [token in trained_ids for token in sample.ids.tolist()] == sample.trained.tolist()


def test_the_report_counts_what_happened():
    drafts = [
        draft(1, (2, 2), place="train.json line 1"),
        draft(1, (9, 2), place="train.json line 2"),  # prompt cut
        draft(1, (2, 2), (2, 4), place="train.json line 3"),  # a turn removed
        draft(1, (2, 20), place="train.json line 4"),  # answer cut
    ]
    samples, report = apply_length_policy(drafts, "truncate_source", src_length=100, max_length=8)
    assert [len(sample) for sample in samples] == [5, 8, 7, 8]
    assert (report.num_rows, report.num_samples, report.num_truncated) == (4, 4, 3)
    assert (report.num_turns_removed, report.num_targets_truncated) == (1, 1)
    assert (report.longest, report.longest_place) == (23, "train.json line 4")
    assert (report.tokens_before, report.tokens_after, report.trained_tokens) == (5 + 12 + 11 + 23, 28, 2 + 2 + 4 + 5)
    text = "\n".join(report.lines())
    expected = ["shortened 3 of 4 rows (75.0%)", "turns removed whole: 1", "lost part of an answer: 1"]
    expected.append("23 of 51 tokens left out")
    for words in expected:
        assert words in text


def test_drop_removes_the_whole_sample_and_says_so():
    drafts = [draft(1, (2, 2)), draft(1, (20, 2), place="train.json line 2")]
    samples, report = apply_length_policy(drafts, "drop", src_length=100, max_length=8)
    assert [len(sample) for sample in samples] == [5]
    assert (report.num_dropped, report.num_truncated) == (1, 0)
    text = "\n".join(report.lines())
    assert "length_policy=drop removed 1 of 2 rows (50.0%) longer than max_length 8" in text
    assert "23 tokens (train.json line 2)" in text


def test_error_names_every_long_sample_and_the_ways_out():
    drafts = [draft(1, (2, 2)), draft(1, (20, 2), place="train.json line 2"), draft(1, (9, 9), place="dev.json line 3")]
    with pytest.raises(DataError) as error:
        apply_length_policy(drafts, "error", src_length=100, max_length=8)
    for word in ["train.json line 2: 23 tokens", "dev.json line 3: 19 tokens", "max_length 8", "raise max_length"]:
        assert word in str(error.value)


def test_a_sample_without_a_trained_token_left_is_dropped_and_counted():
    drafts = [draft(1, (2, 2)), draft(1, (20, 2))]
    samples, report = apply_length_policy(drafts, "truncate_right", src_length=100, max_length=8)
    assert len(samples) == 1
    assert (report.num_without_trained, report.num_truncated) == (1, 0)
    assert "removed 1 of 2 rows (50.0%) with no trained token left" in "\n".join(report.lines())


@pytest.mark.parametrize("policy", ["drop", "truncate_right"])
def test_nothing_left_is_an_error_with_the_first_place(policy):
    drafts = [draft(1, (20, 2), place="train.json line 5"), draft(1, (30, 2), place="train.json line 6")]
    words = r"no sample is left.*train\.json line 5: 23 tokens, 2 trained.*Raise max_length"
    with pytest.raises(DataError, match=words):
        apply_length_policy(drafts, policy, src_length=100, max_length=8)


def test_one_trained_token_without_predecessor_is_no_target():
    with pytest.raises(DataError, match="no sample is left"):
        apply_length_policy([draft(0, (0, 1))], "truncate_source", src_length=100, max_length=8)


def test_an_unknown_policy_is_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match="truncate_source"):
        apply_length_policy([draft(1, (1, 1))], "truncate_sorce", src_length=8, max_length=8)


@pytest.mark.parametrize("policy", ["truncate_source", "truncate_right", "truncate_left", "drop"])
def test_no_policy_keeps_more_than_max_length_or_reorders_a_token(policy):
    draw = np.random.default_rng(0)
    for _ in range(300):
        head = int(draw.integers(0, 2))
        turns = [tuple(draw.integers(0, 8, size=2).tolist()) for _ in range(draw.integers(1, 4))]
        one = draft(head, *turns)
        src_length, max_length = draw.integers(1, 12), draw.integers(2, 20)
        keep = POLICIES[policy](one, src_length, max_length)
        assert keep.dtype == bool and keep.shape == one.ids.shape and keep.sum() <= max_length, (turns, max_length)
        if len(one.ids) and policy != "drop":
            assert keep.any() and keep[:head].all(), (head, turns, src_length, max_length)
        answer = turns[-1][1]
        if policy == "truncate_source" and head + answer <= max_length:
            assert keep[len(keep) - answer :].all(), (head, turns, src_length, max_length)
