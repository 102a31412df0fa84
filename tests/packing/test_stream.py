"""Packing while reading: a partition too, never worse than sequential, and it never reads far ahead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.packing.stream import pack_stream

relaxed = settings(deadline=None, max_examples=100)


@st.composite
def problems(draw):
    capacity = draw(st.integers(1, 40))
    return draw(st.lists(st.integers(1, capacity), max_size=60)), capacity


def num_sequential_rows(lengths, capacity):
    rows, room = 0, 0
    for length in lengths:
        if length > room:
            rows, room = rows + 1, capacity
        room -= length
    return rows


@relaxed
@given(problem=problems(), buffer=st.integers(1, 12))
def test_every_sample_is_in_exactly_one_row_and_no_row_holds_too_much(problem, buffer):
    lengths, capacity = problem
    rows = list(pack_stream(iter(lengths), capacity, buffer))
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[sample] for sample in row) <= capacity for row in rows)


@relaxed
@given(problem=problems(), buffer=st.integers(1, 12))
def test_never_more_rows_than_sequential_packing(problem, buffer):
    lengths, capacity = problem
    assert len(list(pack_stream(lengths, capacity, buffer))) <= num_sequential_rows(lengths, capacity)


@relaxed
@given(problem=problems(), buffer=st.integers(1, 12))
def test_no_more_than_the_buffer_waits_when_a_row_is_given_out(problem, buffer):
    lengths, capacity = problem
    read = 0

    def counted():
        nonlocal read
        for length in lengths:
            read += 1
            yield length

    given_out = 0
    for row in pack_stream(counted(), capacity, buffer):
        given_out += len(row)
        assert read - given_out <= buffer


@relaxed
@given(problem=problems(), buffer=st.integers(1, 12))
def test_the_oldest_sample_is_always_in_the_next_row(problem, buffer):
    lengths, capacity = problem
    waiting = set(range(len(lengths)))
    for row in pack_stream(lengths, capacity, buffer):
        assert min(waiting) in row
        waiting.difference_update(row)


def test_an_endless_stream_gives_rows_at_once():
    def endless():
        while True:
            yield 4

    rows = pack_stream(endless(), 10, 3)
    assert [next(rows) for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_a_gap_is_filled_with_the_longest_sample_that_fits_the_oldest_of_equals():
    assert list(pack_stream([7, 8, 1, 3, 2, 3], 10, 6)) == [[0, 3], [1, 2], [4, 5]]


def test_a_gap_is_filled_even_if_only_one_sample_fits():
    assert list(pack_stream([7, 8, 3], 10, 3)) == [[0, 2], [1]]


def test_a_sample_alone_in_the_buffer_makes_packing_sequential():
    assert list(pack_stream([6, 6, 4, 4, 2], 10, 1)) == [[0], [1, 2], [3, 4]]


@pytest.mark.parametrize(
    "length, said", [(11, "sample 2 has 11 tokens and a row holds 10"), (0, "sample 2 has 0 tokens")]
)
def test_a_sample_that_cannot_be_packed_is_refused_by_name(length, said):
    with pytest.raises(ValueError, match=said):
        list(pack_stream([4, 4, length], 10, 1))


@pytest.mark.parametrize("capacity, buffer, said", [(0, 4, "at least 1 token"), (4, 0, "at least 1 sample")])
def test_a_stream_needs_room_and_a_buffer(capacity, buffer, said):
    with pytest.raises(ValueError, match=said):
        list(pack_stream([1], capacity, buffer))
