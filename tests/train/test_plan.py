from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from paddle_sft.train.plan import StepShape, random_seed, row_order


@pytest.mark.parametrize("num_rows", [1, 3, 4, 5, 49, 52])
def test_the_steps_of_an_epoch_hold_every_row_once(num_rows):
    shape = StepShape(2, 2, 1)
    steps = [list(range(num_rows))[shape.of_step(step)] for step in range(shape.num_steps(num_rows))]
    assert sum(steps, []) == list(range(num_rows))
    assert all(len(step) == 4 for step in steps[:-1]) and 0 < len(steps[-1]) <= 4


@pytest.mark.parametrize("num_rows", [1, 7, 16, 50])
def test_the_number_of_steps_is_the_same_for_any_number_of_ranks(num_rows):
    shapes = [StepShape(8 // (ranks * 2), 2, ranks) for ranks in (1, 2, 4)] + [StepShape(8, 1, 1), StepShape(1, 8, 1)]
    assert len({shape.num_steps(num_rows) for shape in shapes}) == 1
    assert all(shape.of_step(3) == slice(24, 32) for shape in shapes)


@pytest.mark.parametrize("num_rows", [1, 3, 7, 11, 12])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_micro_batches_of_all_ranks_are_the_step(num_rows, ranks):
    shape = StepShape(2, 3, ranks)
    num_rows = min(num_rows, shape.rows_per_step)
    shares = [shape.micro_batches(num_rows, rank) for rank in range(ranks)]
    assert Counter(np.concatenate([piece for share in shares for piece in share]).tolist()) == Counter(range(num_rows))
    assert len({len(share) for share in shares}) == 1 and len(shares[0]) <= 3  # ranks move in step
    assert all(len(piece) <= 2 for share in shares for piece in share)
    for pieces in zip(*shares):
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1  # and none is idle while another has two


def test_drop_last_leaves_the_short_step_out():
    assert StepShape(2, 2, 1).num_steps(10) == 3
    assert StepShape(2, 2, 1, drop_last=True).num_steps(10) == 2
    assert StepShape(2, 2, 1, drop_last=True).num_steps(3) == 1  # rather that than no step


def test_every_epoch_of_every_stage_has_an_order_of_its_own_and_the_same_for_the_same_seed():
    orders = [row_order(50, seed, stage, epoch).tolist() for seed, stage, epoch in product((7, 8), (0, 1), (0, 1, 2))]
    assert len(set(map(tuple, orders))) == len(orders)
    assert all(sorted(order) == list(range(50)) for order in orders)
    row_order.cache_clear()
    assert row_order(50, 7, 0, 1).tolist() == orders[1]


def test_no_two_forward_passes_draw_the_same_numbers():
    places = list(product((0, 1, 42), range(12), range(6), range(6)))  # seed, step, micro-batch, rank
    seeds = [random_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert seeds == [random_seed(*place) for place in places]
    assert all(0 <= seed < 2**32 for seed in seeds)
