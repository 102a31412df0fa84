"""The compact forms say what the dense oracles say, for any list of segments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.masks import segments

relaxed = settings(deadline=None, max_examples=100)
segment_lists = st.lists(st.integers(1, 9), max_size=8)
group_lists = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), max_size=5)


@relaxed
@given(lengths=segment_lists)
def test_row_ends_say_what_the_dense_mask_says(lengths):
    ends = segments.row_ends(lengths)
    np.testing.assert_array_equal(segments.dense_from_row_ends(ends), segments.dense_causal(lengths))


@relaxed
@given(lengths=segment_lists, window=st.integers(1, 12))
def test_window_row_ends_say_what_the_dense_window_says(lengths, window):
    ends = segments.window_row_ends(lengths, window)
    np.testing.assert_array_equal(segments.dense_from_row_ends(ends), segments.dense_window(lengths, window))


@relaxed
@given(groups=group_lists)
def test_shared_prefix_row_ends_say_what_the_dense_mask_says(groups):
    ends = segments.shared_prefix_row_ends(groups)
    np.testing.assert_array_equal(segments.dense_from_row_ends(ends), segments.dense_shared_prefix(groups))


@relaxed
@given(groups=group_lists, window=st.integers(1, 14))
def test_shared_prefix_row_ends_under_a_window_are_the_dense_mask_or_refused(groups, window):
    """Refused only where no row ends can say it: somewhere a column is seen again after it was hidden."""
    dense = segments.dense_shared_prefix(groups, window)
    if segments.window_fits(groups, window):
        ends = segments.shared_prefix_row_ends(groups, window)
        np.testing.assert_array_equal(segments.dense_from_row_ends(ends), dense)
        return
    with pytest.raises(ValueError, match="ends inside one of several answers"):
        segments.shared_prefix_row_ends(groups, window)


def test_the_dense_shared_prefix_under_a_window_is_this_one():
    """A prompt of 2 tokens with answers of 2 and 1, a window of 2: each answer's first token sees the prompt's last."""
    expected = ["10000", "11000", "01100", "00110", "01001"]
    assert as_text(segments.dense_shared_prefix([[2, 2, 1]], 2)) == expected


@relaxed
@given(groups=group_lists, padding=st.integers(0, 4))
def test_a_row_may_mix_samples_and_prompts_with_answers(groups, padding):
    row = [group[0] if len(group) == 1 else group for group in groups]
    num_tokens = sum(map(sum, groups))
    padded = segments.with_padding(row, num_tokens + padding)
    assert segments.as_groups(padded) == groups + ([[padding]] if padding else [])
    assert segments.shares_prefix(padded) == any(len(group) > 1 for group in groups)


def test_the_dense_causal_mask_is_this_one():
    """The oracle itself, written out: two samples of 2 tokens and one token of padding."""
    expected = ["10000", "11000", "00100", "00110", "00001"]
    assert as_text(segments.dense_causal(segments.with_padding([2, 2], 5))) == expected


def test_the_dense_window_is_this_one():
    assert as_text(segments.dense_window([4, 2], 2)) == ["100000", "110000", "011000", "001100", "000010", "000011"]


def test_the_dense_shared_prefix_mask_is_this_one():
    """A prompt of 1 token with answers of 2 and 1, then an ordinary sample of 2."""
    expected = ["100000", "110000", "111000", "100100", "000010", "000011"]
    assert as_text(segments.dense_shared_prefix([[1, 2, 1], [2]])) == expected


def as_text(mask):
    return ["".join(str(int(seen)) for seen in row) for row in mask]


@relaxed
@given(lengths=segment_lists)
def test_a_group_without_answers_is_an_ordinary_sample(lengths):
    groups = [[length] for length in lengths]
    np.testing.assert_array_equal(segments.shared_prefix_row_ends(groups), segments.row_ends(lengths))
    np.testing.assert_array_equal(segments.shared_prefix_position_ids(groups), segments.position_ids(lengths))


@relaxed
@given(lengths=segment_lists)
def test_a_window_as_long_as_the_row_is_no_window(lengths):
    np.testing.assert_array_equal(segments.window_row_ends(lengths, max(1, sum(lengths))), segments.row_ends(lengths))


@relaxed
@given(lengths=segment_lists)
def test_positions_and_bounds_are_those_of_each_sample_alone(lengths):
    bounds = segments.cumulative_lengths(lengths)
    positions = segments.position_ids(lengths)
    assert bounds[-1] == len(positions) == sum(lengths)
    for start, end, length in zip(bounds[:-1], bounds[1:], lengths):
        assert positions[start:end].tolist() == list(range(length))


@relaxed
@given(groups=group_lists)
def test_a_position_counts_the_tokens_that_are_seen(groups):
    """True of every causal mask with positions reset: token p of a sample sees p earlier tokens and itself."""
    seen = segments.dense_shared_prefix(groups).sum(axis=1)
    np.testing.assert_array_equal(segments.shared_prefix_position_ids(groups) + 1, seen)


@relaxed
@given(lengths=segment_lists, padding=st.integers(0, 5))
def test_padding_sees_itself_and_is_seen_by_no_sample(lengths, padding):
    tokens = sum(lengths)
    mask = segments.dense_from_row_ends(segments.row_ends(segments.with_padding(lengths, tokens + padding)))
    assert mask.shape == (tokens + padding, tokens + padding)
    assert mask.diagonal().all()
    assert not mask[:tokens, tokens:].any()
    assert not mask[tokens:, :tokens].any()


def test_the_forms_have_the_types_that_kernels_take():
    forms = segments.row_ends([2, 1]), segments.window_row_ends([2, 1], 1), segments.shared_prefix_row_ends([[1, 2]])
    assert {form.dtype for form in (*forms, segments.cumulative_lengths([2, 1]))} == {np.dtype("int32")}
    positions = segments.position_ids([2, 1]), segments.shared_prefix_position_ids([[1, 2]])
    assert {form.dtype for form in positions} == {np.dtype("int64")}


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: segments.row_ends([2, 0, 1]), r"at least 1, got \[2, 0, 1\]"),
        (lambda: segments.position_ids([-1]), "at least 1"),
        (lambda: segments.row_ends([[1], [2]]), "flat list"),
        (lambda: segments.with_padding([3, 3], 5), "segments of 6 tokens do not fit a row of 5"),
        (lambda: segments.window_row_ends([3], 0), "at least the token itself, got 0"),
        (lambda: segments.dense_window([3], 0), "at least the token itself, got 0"),
        (lambda: segments.shared_prefix_row_ends([[2], []]), "got an empty one"),
        (lambda: segments.shared_prefix_position_ids([[2, 0]]), "at least 1"),
    ],
)
def test_segments_that_make_no_row_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
