"""Every packer of the catalogue makes rows that lose, double and cut nothing, the same everywhere for one seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import List

import benchmark_packing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.packing.best_fit import OpenRows, place, rows_by_length
from paddle_sft.packing.certificate import certify
from paddle_sft.packing.packers import DEFAULT_PACKER, PACKERS

ROOT = Path(__file__).resolve().parents[2]
CAPACITIES = st.sampled_from([1, 2, 7, 64, 511, 512, 513, 5000, 100_000])

each_packer = pytest.mark.parametrize("name", PACKERS)
relaxed = settings(deadline=None, max_examples=80)


@st.composite
def problems(draw):
    """(lengths, capacity) with many equal lengths, lengths of 1, and lengths that fill a row."""
    capacity = draw(CAPACITIES)
    length = st.one_of(st.integers(1, capacity), st.sampled_from([1, capacity, (capacity + 1) // 2, capacity // 3 + 1]))
    return np.array(draw(st.lists(length, max_size=60)), dtype=np.int64), capacity


def naive_best_fit(lengths: List[int], capacity: int) -> List[int]:
    """Room left in each row after best-fit decreasing, sorted. Slow and obvious."""
    rooms: List[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [row for row, room in enumerate(rooms) if room >= length]
        if not fits:
            rooms.append(capacity)
            fits = [len(rooms) - 1]
        rooms[min(fits, key=rooms.__getitem__)] -= length
    return sorted(rooms)


def naive_sequential(lengths: List[int], capacity: int) -> List[List[int]]:
    rows: List[List[int]] = []
    room = 0
    for sample, length in enumerate(lengths):
        if length > room or not rows:
            rows.append([])
            room = capacity
        rows[-1].append(sample)
        room -= length
    return rows


def contents(packs):
    """The rows as sets, in an order that does not depend on the shuffle."""
    return sorted(sorted(row.tolist()) for row in packs)


@each_packer
@relaxed
@given(problem=problems(), seed=st.integers(0, 5))
def test_every_sample_is_in_exactly_one_row_and_no_row_holds_too_much(name, problem, seed):
    lengths, capacity = problem
    rows = [row.tolist() for row in PACKERS[name](lengths, capacity, seed)]
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[row]) <= capacity for row in rows)


@relaxed
@given(problem=problems())
def test_best_fit_leaves_the_rooms_that_the_naive_algorithm_leaves(problem):
    lengths, capacity = problem
    packs = PACKERS["best_fit"](lengths, capacity, 0)
    rooms = sorted(capacity - int(lengths[row].sum()) for row in packs)
    assert rooms == naive_best_fit(lengths.tolist(), capacity)


@relaxed
@given(problem=problems())
def test_sequential_rows_are_the_naive_ones(problem):
    lengths, capacity = problem
    assert contents(PACKERS["sequential"](lengths, capacity, 3)) == naive_sequential(lengths.tolist(), capacity)


@relaxed
@given(problem=problems())
def test_greedy_needs_no_more_rows_than_sequential(problem):
    lengths, capacity = problem
    assert len(PACKERS["greedy"](lengths, capacity, 0)) <= len(PACKERS["sequential"](lengths, capacity, 0))


@each_packer
def test_one_seed_gives_one_packing_and_another_seed_another(name):
    lengths = np.arange(300) % 40 + 1
    first, again, other = (PACKERS[name](lengths, 100, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.indices, again.indices)
    np.testing.assert_array_equal(first.offsets, again.offsets)
    assert first.indices.tolist() != other.indices.tolist()


DIGEST = """
import hashlib, sys
import numpy as np
from paddle_sft.packing.packers import PACKERS
np.random.seed(int(sys.argv[1]))
lengths = np.arange(5000) * 7919 % 600 + 1
for name, pack in PACKERS.items():
    packs = pack(lengths, 1024, 42)
    print(name, hashlib.sha256(packs.indices.tobytes() + packs.offsets.tobytes()).hexdigest())
"""


def test_the_rows_do_not_depend_on_rank_ranks_hash_seed_or_numpys_global_state():
    def run(rank, ranks):
        environment = {**os.environ, "PADDLE_TRAINER_ID": rank, "PADDLE_TRAINERS_NUM": ranks, "PYTHONHASHSEED": rank}
        command = [sys.executable, "-c", DIGEST, rank]
        return subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert run("0", "1") == run("3", "4")


KNOWN_ROWS = {
    "best_fit": [[10, 5], [1, 11, 3], [2, 4], [8, 9], [6, 0, 7]],
    "greedy": [[2, 4], [11], [1, 3, 0], [5, 6], [8, 7], [10, 9]],
    "sequential": [[2, 3], [11], [1, 0], [5, 6, 4], [8, 7], [10, 9]],
}


@each_packer
def test_a_known_packing_stays_what_it_is_on_every_platform_and_version(name):
    lengths = np.array([5, 3, 8, 2, 2, 7, 1, 4, 4, 6, 3, 3])
    assert [row.tolist() for row in PACKERS[name](lengths, 10, 42)] == KNOWN_ROWS[name]


@each_packer
@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64])
def test_the_type_of_the_lengths_does_not_matter(name, dtype):
    lengths = np.arange(200) % 50 + 1
    packs = PACKERS[name](lengths.astype(dtype), 64, 1)
    np.testing.assert_array_equal(packs.indices, PACKERS[name](lengths, 64, 1).indices)
    assert packs.indices.dtype == packs.offsets.dtype == np.int64


@each_packer
@pytest.mark.parametrize(
    "length, said", [(65, "sample 2 has 65 tokens and a row holds 64"), (0, "sample 2 has 0"), (-1, "-1")]
)
def test_a_sample_that_cannot_be_packed_is_refused_by_name(name, length, said):
    for after in ([], [99, 0]):  # the first one is named, whatever comes after it
        with pytest.raises(ValueError, match=said):
            PACKERS[name](np.array([64, 1, length, *after]), 64, 0)


@each_packer
@pytest.mark.parametrize(
    "lengths, capacity, said",
    [([1.5], 4, "whole numbers"), ([[1, 2]], 4, "flat"), ([1], 0, "at least 1 token, got 0")],
)
def test_what_is_no_list_of_lengths_is_refused(name, lengths, capacity, said):
    with pytest.raises(ValueError, match=said):
        PACKERS[name](np.array(lengths), capacity, 0)


@each_packer
def test_rows_may_be_longer_than_16_bits_can_count(name):
    lengths = np.arange(1, 1001) * 131
    tokens = PACKERS[name](lengths, 131_072, 0).tokens(lengths)
    assert tokens.max() <= 131_072
    assert tokens.sum() == lengths.sum()


@each_packer
def test_a_negative_seed_is_refused(name):
    with pytest.raises(ValueError, match="seed .* got -1"):
        PACKERS[name](np.array([1, 2]), 4, -1)


@each_packer
def test_no_samples_make_no_rows(name):
    packs = PACKERS[name](np.array([], dtype=np.int64), 8, 0)
    assert (len(packs), list(packs), packs.offsets.tolist()) == (0, [], [0])


@each_packer
def test_lengths_do_not_tell_when_or_where_a_sample_is_trained(name):
    """Best fit meets long samples first; unshuffled, the correlations below are near 1."""
    lengths = np.random.default_rng(0).integers(1, 400, 20_000)
    packs = PACKERS[name](lengths, 1000, 0)
    counts = np.diff(packs.offsets)
    mean_length = packs.tokens(lengths) / counts
    place_in_row = np.arange(len(lengths)) - np.repeat(packs.offsets[:-1], counts)
    deviation = place_in_row - np.repeat((counts - 1) / 2, counts)
    assert abs(np.corrcoef(np.arange(len(packs)), mean_length)[0, 1]) < 0.05
    assert abs(np.corrcoef(deviation, lengths[packs.indices])[0, 1]) < 0.05


def test_best_fit_does_not_put_neighbours_of_equal_length_together():
    lengths = np.full(4000, 10)
    packs = PACKERS["best_fit"](lengths, 100, 0)
    spread = np.array([np.ptp(row) for row in packs])
    assert spread.min() > 100  # ten neighbours would span 9


@pytest.mark.parametrize(
    "distribution", benchmark_packing.DISTRIBUTIONS, ids=lambda item: f"{item.name}-{item.capacity}"
)
def test_the_default_keeps_its_promise_on_the_six_distributions(distribution):
    lengths = benchmark_packing.lengths_of(distribution, 100_000, seed=0)
    certificate = certify(PACKERS[DEFAULT_PACKER](lengths, distribution.capacity, 0), lengths, distribution.capacity)
    assert certificate.efficiency >= 0.997
    assert certificate.gap <= 0.0025


def test_the_six_distributions_have_the_means_they_are_called_by():
    means = [benchmark_packing.lengths_of(item, 100_000, seed=0).mean() for item in benchmark_packing.DISTRIBUTIONS]
    np.testing.assert_allclose(means, [314, 328, 100, 100, 861, 1100], atol=1.5)


def test_best_fit_works_on_the_histogram_and_not_on_samples():
    """A million equal rows are two steps; if steps grew with samples, 10 million samples would take minutes."""
    counts = np.zeros(701, dtype=np.int64)
    counts[[700, 100]] = 1_000_000, 3_000_000
    placements = place(counts, 1000)
    assert len(placements.copies) == 2
    assert rows_by_length(placements).max() == 999_999


@relaxed
@given(rooms=st.lists(st.integers(1, 2000), max_size=30), data=st.data())
def test_the_tightest_open_row_is_the_smallest_room_that_is_large_enough(rooms, data):
    open_rows = OpenRows(2000)
    for row, room in enumerate(rooms):
        open_rows.add(room, row, 1)
    for room in data.draw(st.permutations(rooms)):
        length = data.draw(st.integers(1, 2000))
        assert open_rows.tightest(length) == min((left for left in rooms if left >= length), default=0)
        row, _ = open_rows.take(room)
        assert row >= 0
        rooms.remove(room)
    assert open_rows.summary == 0


@each_packer
@relaxed
@given(problem=problems())
def test_data_order_keeps_the_rows_and_undoes_the_shuffle(name, problem):
    lengths, capacity = problem
    packs = PACKERS[name](lengths, capacity, 0)
    assert [row.tolist() for row in packs.in_data_order()] == contents(packs)


def test_a_row_that_is_not_there_is_an_index_error():
    packs = PACKERS["best_fit"](np.array([3, 3]), 3, 0)
    assert [len(packs[row]) for row in (0, 1)] == [1, 1]
    for row in (-1, 2):
        with pytest.raises(IndexError, match="of 2 rows"):
            packs[row]
