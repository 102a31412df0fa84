"""Virtual tokens stand before every sample, and every token is found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.masks.segments import as_groups
from paddle_sft.masks.virtual import put_before

SEGMENT = st.one_of(st.integers(1, 6), st.lists(st.integers(1, 4), min_size=2, max_size=4))


def length(segment):
    return sum(as_groups([segment])[0])


@st.composite
def equal_rows(draw):
    """Rows of segments that add up to one width, as a batch has them."""
    rows = draw(st.lists(st.lists(SEGMENT, min_size=1, max_size=4), min_size=1, max_size=4))
    width = max(sum(map(length, row)) for row in rows)
    return [row + [width - sum(map(length, row))] * (sum(map(length, row)) < width) for row in rows]


@settings(max_examples=60, deadline=None)
@given(rows=equal_rows(), num=st.integers(1, 5))
def test_rows_are_read_token_by_token(rows, num):
    """Against a loop over the rows that only appends."""
    found = put_before(rows, num)
    ids = iter(range(num, 10**6))
    expected = []
    for row in rows:
        line = []
        for segment in row:
            line += [*range(num), *(next(ids) for _ in range(length(segment)))]
        expected.append(line)
    width = max(map(len, expected))
    assert found.sources.tolist() == [line + [0] * (width - len(line)) for line in expected]
    tokens = found.sources.reshape(-1)[found.places] - num
    assert tokens.tolist() == list(range(sum(map(length, rows[0])) * len(rows)))
    for row, line, longer in zip(rows, expected, found.segment_lengths):
        assert sum(map(length, longer)) == width
        assert [length(segment) - num for segment in longer[: len(row)]] == [length(segment) for segment in row]
        assert len(longer) == len(row) + (len(line) < width)


def test_positions_go_on_where_the_virtual_tokens_end():
    rows = put_before([[2, [1, 2, 1]], [6]], 3)
    assert rows.positions(None).tolist() == [
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 4],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2],
    ]
    skipped = put_before([[2, 1], [3]], 2).positions(np.array([[0, 7, 0], [0, 1, 9]]))
    assert skipped.tolist() == [[0, 1, 2, 9, 0, 1, 2], [0, 1, 2, 3, 11, 0, 0]]


def test_an_empty_segment_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        put_before([[2, 0]], 1)
