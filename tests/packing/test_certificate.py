"""A certificate says what is true: bounds that no packing beats, and numbers rounded against us."""

from __future__ import annotations

from typing import List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.packing.certificate import Certificate, certify
from paddle_sft.packing.lower_bound import dual_feasible_bound, lower_bound, martello_toth_bound, token_bound
from paddle_sft.packing.packers import PACKERS
from paddle_sft.packing.packs import Packs

relaxed = settings(deadline=None, max_examples=150)


@st.composite
def tiny_problems(draw):
    capacity = draw(st.integers(1, 30))
    return draw(st.lists(st.integers(1, capacity), min_size=1, max_size=8)), capacity


def fewest_rows(lengths: List[int], capacity: int) -> int:
    """The best packing by trying every one."""

    def search(left: List[int], rooms: List[int]) -> int:
        if not left:
            return len(rooms)
        length, *rest = left
        options = {room: place for place, room in enumerate(rooms) if room >= length}
        best = search(rest, rooms + [capacity - length])
        for room, place in options.items():
            best = min(best, search(rest, rooms[:place] + [room - length] + rooms[place + 1 :]))
        return best

    return search(sorted(lengths, reverse=True), [])


def full_counts(lengths: List[int], capacity: int) -> np.ndarray:
    return np.bincount(lengths, minlength=capacity + 1)


@relaxed
@given(problem=tiny_problems())
def test_no_bound_is_above_the_best_packing(problem):
    lengths, capacity = problem
    counts = full_counts(lengths, capacity)
    best = fewest_rows(lengths, capacity)
    bounds = [token_bound(counts), martello_toth_bound(counts), lower_bound(np.bincount(lengths), capacity)]
    bounds += [dual_feasible_bound(counts, divisor) for divisor in range(2, 12)]
    assert max(bounds) <= best
    assert bounds[2] == max(bounds)


@relaxed
@given(problem=tiny_problems())
def test_the_martello_toth_bound_is_its_definition(problem):
    lengths, capacity = problem
    bounds = []
    for threshold in range(capacity // 2 + 1):
        alone = [length for length in lengths if length > capacity - threshold]
        big = [length for length in lengths if capacity / 2 < length <= capacity - threshold]
        small = [length for length in lengths if threshold <= length <= capacity / 2]
        overflow = sum(small) - (len(big) * capacity - sum(big))
        bounds.append(len(alone) + len(big) + max(0, -(-overflow // capacity)))
    assert martello_toth_bound(full_counts(lengths, capacity)) == max(bounds)


@pytest.mark.parametrize(
    "lengths, capacity, tokens, martello_toth, best",
    [
        ([6, 6, 6, 4], 10, 3, 3, 3),
        ([6, 6, 6, 6], 10, 3, 4, 4),  # two above half a row never share one
        ([3, 3, 3], 5, 2, 3, 3),  # the same where half a row is no whole number
        ([8, 3, 3, 3, 3], 10, 2, 3, 3),  # nothing of 3 or more shares a row with 8
        ([4] * 7, 10, 3, 3, 4),  # two to a row: only the rounded lengths see it
    ],
)
def test_each_bound_sees_what_the_one_before_misses(lengths, capacity, tokens, martello_toth, best):
    counts = full_counts(lengths, capacity)
    found = token_bound(counts), martello_toth_bound(counts), lower_bound(counts, capacity)
    assert found == (tokens, martello_toth, best)
    assert fewest_rows(lengths, capacity) == best


@pytest.mark.parametrize("name", PACKERS)
@relaxed
@given(problem=tiny_problems())
def test_the_gap_is_no_smaller_than_the_distance_to_the_best_packing(name, problem):
    lengths, capacity = problem
    certificate = certify(PACKERS[name](np.array(lengths), capacity, 0), np.array(lengths), capacity)
    best = fewest_rows(lengths, capacity)
    assert certificate.num_rows >= best
    assert certificate.gap >= (certificate.num_rows - best) / best
    assert certificate.efficiency == sum(lengths) / (certificate.num_rows * capacity)


def test_a_bound_on_ten_billion_tokens_is_exact():
    """In 32 bits the token count would wrap around."""
    counts = np.zeros(131073, dtype=np.int64)
    counts[131071] = 10_000_000
    counts[1] = 10_000_001
    assert lower_bound(counts, 131072) == 10_000_001


@pytest.mark.parametrize(
    "rows",
    [[[0, 1]], [[0, 1], [2, 2]], [[0, 1], [2], [0]], [[0, 1], [2, 3]], [[-1, 1], [2]]],
    ids=["lost", "doubled", "twice", "unknown", "negative"],
)
def test_rows_that_are_no_packing_get_no_certificate(rows):
    with pytest.raises(ValueError, match="each of the 3 samples exactly once"):
        certify(packs_of(rows), np.array([4, 4, 4]), 10)


@pytest.mark.parametrize("rows, said", [([[0, 1, 2]], "12 to 12 tokens"), ([[0, 1], [2], []], "0 to 8 tokens")])
def test_a_row_that_holds_too_much_or_nothing_gets_no_certificate(rows, said):
    with pytest.raises(ValueError, match=said):
        certify(packs_of(rows), np.array([4, 4, 4]), 10)


def packs_of(rows):
    offsets = np.cumsum([0] + [len(row) for row in rows])
    return Packs(np.array([sample for row in rows for sample in row]), offsets)


def test_a_certificate_reads_as_it_should():
    assert Certificate(99_314, 15_209, 31_145_000, 2048, 15_208).lines() == [
        "Packing: 99,314 samples, 31,145,000 tokens, 15,209 rows of 2,048.",
        "Efficiency 99.99 %. No packing has fewer than 15,208 rows; this is 1 above it (0.01 %).",
    ]
    assert (
        Certificate(3, 3, 18, 10, 3).lines()[1].endswith("fewer than 3 rows; this is exactly that, the best possible.")
    )
    assert Certificate(0, 0, 0, 10, 0).lines() == ["Packing: no samples, no rows."]


def test_a_rounded_certificate_never_says_more_than_is_true():
    nearly = Certificate(2, 1_000_001, 10_000_009, 10, 1_000_000)
    assert nearly.efficiency < 1
    assert "Efficiency 99.99 %" in nearly.lines()[1]
    assert "(0.01 %)" in nearly.lines()[1]


def test_nothing_to_pack_is_packed_well():
    nothing = np.array([], dtype=np.int64)
    certificate = certify(PACKERS["best_fit"](nothing, 8, 0), nothing, 8)
    assert (certificate.efficiency, certificate.gap, certificate.num_rows) == (1.0, 0.0, 0)
