from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from paddle_sft.train.plan import StepPlan, random_seed


def plan(num_samples=50, rows=2, accumulation=2, ranks=1, num_epochs=3.0, max_steps=-1, seed=7, **more):
    return StepPlan(num_samples, rows, accumulation, ranks, num_epochs, max_steps, seed, **more)


def epoch(one, number=0):
    """The samples of one epoch, step by step."""
    first = number * one.steps_per_epoch
    return [one.indices(step) for step in range(first, first + one.steps_per_epoch)]


@pytest.mark.parametrize("num_samples", [1, 3, 4, 5, 49, 52])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_is_seen_once_in_every_epoch(num_samples, shuffle):
    one = plan(num_samples, shuffle=shuffle)
    for number in range(3):
        assert sorted(np.concatenate(epoch(one, number))) == list(range(num_samples))


@pytest.mark.parametrize("num_samples", [1, 7, 16, 50])
def test_a_step_holds_the_same_samples_for_any_number_of_ranks(num_samples):
    plans = [plan(num_samples, rows=8 // (ranks * 2), accumulation=2, ranks=ranks) for ranks in (1, 2, 4)]
    plans += [plan(num_samples, rows=8, accumulation=1), plan(num_samples, rows=1, accumulation=8)]
    assert len({one.num_steps for one in plans}) == 1
    for step in range(plans[0].num_steps):
        for one in plans[1:]:
            np.testing.assert_array_equal(one.indices(step), plans[0].indices(step))


@pytest.mark.parametrize("num_samples", [1, 7, 16, 50])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_micro_batches_of_all_ranks_are_the_step(num_samples, ranks):
    one = plan(num_samples, rows=2, accumulation=3, ranks=ranks)
    for step in range(one.num_steps):
        shares = [one.micro_batches(step, rank) for rank in range(ranks)]
        assert Counter(np.concatenate([piece for share in shares for piece in share]).tolist()) == Counter(
            one.indices(step).tolist()
        )
        assert len({len(share) for share in shares}) == 1 and len(shares[0]) <= 3  # ranks move in step
        assert all(len(piece) <= 2 for share in shares for piece in share)
        for pieces in zip(*shares):
            assert max(map(len, pieces)) - min(map(len, pieces)) <= 1  # and none is idle while another has two


def test_the_last_step_of_an_epoch_is_shorter_and_the_next_epoch_starts_its_own():
    one = plan(num_samples=10, rows=2, accumulation=2)
    assert [len(indices) for indices in epoch(one)] == [4, 4, 2]
    assert [len(indices) for indices in epoch(one, 1)] == [4, 4, 2]


def test_drop_last_leaves_the_short_step_out():
    one = plan(num_samples=10, drop_last=True)
    assert [len(indices) for indices in epoch(one)] == [4, 4] and one.num_steps == 6
    assert [len(indices) for indices in epoch(plan(num_samples=3, drop_last=True))] == [3]  # rather that than no step


def test_every_epoch_has_an_order_of_its_own_and_the_same_for_the_same_seed():
    orders = [np.concatenate(epoch(plan(), number)) for number in range(3)]
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[1], orders[2])
    np.testing.assert_array_equal(orders[1], np.concatenate(epoch(plan(), 1)))
    assert not np.array_equal(orders[0], np.concatenate(epoch(plan(seed=8))))
    assert not np.array_equal(orders[1], np.concatenate(epoch(plan(seed=8), 0)))  # seed + epoch would give the same


def test_without_shuffling_the_order_is_that_of_the_data():
    np.testing.assert_array_equal(np.concatenate(epoch(plan(shuffle=False), 2)), np.arange(50))


@pytest.mark.parametrize(
    "num_samples, rows, accumulation", [(50, 2, 2), (50, 8, 1), (7, 2, 4), (1, 1, 1), (9, 2, 2), (64, 8, 4)]
)
@pytest.mark.parametrize("num_epochs", [1.0, 3.0, 0.5, 2.3])
def test_the_number_of_steps_is_that_of_hugging_face(num_samples, rows, accumulation, num_epochs):
    """transformers 5, Trainer.set_initial_training_values: the last, shorter accumulation counts as a step."""
    num_batches = math.ceil(num_samples / rows)
    steps_per_epoch = num_batches // accumulation + int(num_batches % accumulation > 0)
    assert plan(num_samples, rows, accumulation, num_epochs=num_epochs).num_steps == math.ceil(
        num_epochs * steps_per_epoch
    )


def test_max_steps_wins_over_epochs_in_both_directions():
    assert plan(max_steps=2).num_steps == 2
    one = plan(num_samples=4, num_epochs=1.0, max_steps=9)
    assert one.num_steps == 9 and len(one.indices(8)) == 4  # the ninth step is in the ninth epoch


def test_no_two_forward_passes_draw_the_same_numbers():
    places = list(product((0, 1, 42), range(12), range(6), range(6)))  # seed, step, micro-batch, rank
    seeds = [random_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert seeds == [random_seed(*place) for place in places]
    assert all(0 <= seed < 2**32 for seed in seeds)
