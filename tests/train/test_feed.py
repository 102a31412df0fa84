"""What each step sees: exact lists of samples, for one mix and for stages, for any number of ranks."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paddle_sft.arguments.mixing import SourceMix
from paddle_sft.core.errors import ArgumentError
from paddle_sft.data.mixing import Mix
from paddle_sft.data.quotas import make_quotas, sources_of
from paddle_sft.data.store import SampleStore
from paddle_sft.train.feed import FeedSettings, MapFeed, RunStage
from paddle_sft.train.plan import StepShape
from tests import tiny

SIZES = {"law": 30, "chat": 20, "books": 9}
NAMES = list(SIZES)


def store(sizes=None, seed=0):
    sizes = sizes or {"": 50}
    source = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    samples = tiny.make_samples(len(source), seed)
    return SampleStore.of(samples, source.tolist(), tuple(sizes))


def mix(samples, mixes=None, names=None, stage=0, unit="samples", exhausted="stop", seed=7, shuffle=True):
    sources = sources_of(samples, names)
    quotas = make_quotas(sources, mixes or {}, unit, exhausted)
    return Mix(sources, quotas, seed, unit=unit, stage=stage, shuffle=shuffle, mixed=bool(mixes))


def feed(samples=None, stages=None, rows=2, accumulation=2, ranks=1, epochs=3.0, max_steps=-1, **more):
    samples = samples or store()
    shape = StepShape(rows, accumulation, ranks, more.pop("drop_last", False))
    more = {"seed": 7, "capacity": 24, **more}
    if stages is None:
        one = mix(samples, seed=more["seed"], shuffle=more.get("shuffle", True))
        stages = [RunStage(one, None if max_steps > 0 else epochs)]
    return MapFeed(samples, stages, FeedSettings(shape, max_steps=max_steps, **more))


def places(step):
    return list(step.places())


def all_places(one):
    return [places(one.step(number)) for number in range(one.num_steps)]


PACKINGS = ["none", "best_fit", "greedy", "sequential"]


@pytest.mark.parametrize("num_samples", [1, 3, 4, 5, 49])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_is_seen_once_in_every_epoch(num_samples, packing, shuffle):
    one = feed(store({"": num_samples}), packing=packing, shuffle=shuffle)
    seen = Counter(place for step in all_places(one) for place in step)
    assert seen == {f"train.json line {number + 1}": 3 for number in range(num_samples)}
    steps_per_epoch = one.sizes()["steps_per_epoch"]
    assert one.num_steps == 3 * steps_per_epoch
    first = Counter(place for step in all_places(one)[:steps_per_epoch] for place in step)
    assert set(first.values()) == {1} and len(first) == num_samples


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_together_the_ranks_see_what_one_rank_sees(packing):
    sizes = {"law": 30, "chat": 20}
    samples = store(sizes)
    mixes = {"law": SourceMix(share=Fraction(1, 3)), "chat": SourceMix(epochs=Fraction(3, 2))}
    feeds = {
        ranks: feed(samples, [RunStage(mix(samples, mixes), 2.5)], 8 // ranks // 2, 2, ranks, packing=packing)
        for ranks in (1, 2, 4)
    }
    assert feeds[1].num_steps == feeds[2].num_steps == feeds[4].num_steps > 5
    for number in range(feeds[1].num_steps):
        steps = {ranks: one.step(number) for ranks, one in feeds.items()}
        assert places(steps[1]) == places(steps[2]) == places(steps[4])
        for ranks, step in steps.items():
            shares = [[sample.place for batch in step.micro_batches(rank) for row in batch for sample in row]
                      for rank in range(ranks)]  # fmt: skip
            assert Counter(sum(shares, [])) == Counter(places(step))


def test_a_step_knows_its_tokens_and_where_they_came_from():
    samples = store(SIZES)
    one = feed(samples, packing="best_fit")
    by_source = Counter()
    for number in range(one.num_steps):
        step = one.step(number)
        there = [sample for row in step.rows for sample in row]
        assert step.num_tokens == sum(map(len, there)) == sum(step.tokens_by_source.values())
        assert step.num_trained == sum(sample.num_trained for sample in there)
        by_source.update(step.tokens_by_source)
    totals = np.bincount(samples.source, samples.lengths)
    assert by_source == {name: 3 * total for name, total in zip(NAMES, totals)}


@pytest.mark.parametrize(
    "num_samples, rows, accumulation", [(50, 2, 2), (50, 8, 1), (7, 2, 4), (1, 1, 1), (9, 2, 2), (64, 8, 4)]
)
@pytest.mark.parametrize("epochs", [1.0, 3.0, 0.5, 2.3])
def test_the_number_of_steps_is_that_of_hugging_face(num_samples, rows, accumulation, epochs):
    """transformers 5, Trainer.set_initial_training_values: the last, shorter accumulation counts as a step."""
    num_batches = math.ceil(num_samples / rows)
    steps_per_epoch = num_batches // accumulation + int(num_batches % accumulation > 0)
    one = feed(store({"": num_samples}), rows=rows, accumulation=accumulation, epochs=epochs)
    assert one.num_steps == math.ceil(epochs * steps_per_epoch)


def test_a_decimal_number_of_epochs_is_meant_as_written():
    assert feed(store({"": 10}), rows=1, accumulation=1, epochs=1.1).num_steps == 11  # 1.1 * 10 is 11.000000000000002


def test_max_steps_wins_over_epochs_in_both_directions():
    assert feed(max_steps=2).num_steps == 2
    one = feed(store({"": 4}), max_steps=9)
    assert one.num_steps == 9 and len(places(one.step(8))) == 4  # the ninth step is in the ninth epoch


def test_epochs_begin_and_end_where_they_should():
    one = feed(store({"": 10}), epochs=2.5)
    marks = [(step.begins_epoch, step.ends_epoch) for step in map(one.step, range(one.num_steps))]
    whole = [(True, False), (False, False), (False, True)]
    assert marks == [*whole, *whole, (True, False), (False, True)]
    assert [round(one.epochs_after(num), 3) for num in range(9)] == [0, 0.333, 0.667, 1, 1.333, 1.667, 2, 2.333, 2.667]


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_every_epoch_has_an_order_of_its_own_and_the_same_for_the_same_seed(packing):
    def epochs(seed):
        one = feed(packing=packing, seed=seed)
        width = one.sizes()["steps_per_epoch"]
        seen = all_places(one)
        return [sum(seen[first : first + width], []) for first in range(0, len(seen), width)]

    orders = epochs(7) + epochs(8)
    assert len(set(map(tuple, orders))) == 6 and epochs(7) == orders[:3]


def test_packed_without_shuffling_rows_follow_one_another_as_their_first_samples_do():
    one = feed(shuffle=False, packing="best_fit", epochs=1.0)
    numbers = [[int(sample.place.split()[-1]) for sample in row] for step in map(one.step, range(one.num_steps))
               for row in step.rows]  # fmt: skip
    assert all(row == sorted(row) for row in numbers)
    assert [row[0] for row in numbers] == sorted(row[0] for row in numbers)


def test_a_stage_in_steps_may_end_in_the_middle_of_an_epoch():
    samples = store(SIZES)
    one = feed(
        samples, [RunStage(mix(samples, None, ["law"]), steps=11), RunStage(mix(samples, None, ["chat"], 1), 1.0)]
    )
    sources = [set(one.step(number).tokens_by_source) for number in range(one.num_steps)]
    assert sources == [{"law"}] * 11 + [{"chat"}] * 5  # law has 8 steps an epoch
    assert one.step(7).ends_epoch and one.step(10).ends_epoch and one.epochs_after(11) == 1.375


def test_without_shuffling_the_order_is_that_of_the_data():
    one = feed(shuffle=False, epochs=2.0)
    expected = [f"train.json line {number}" for number in range(1, 51)]
    assert sum(all_places(one), []) == 2 * expected


def mixed_epochs(one):
    """Counter of sample places by epoch."""
    epochs = []
    for step in map(one.step, range(one.num_steps)):
        if step.begins_epoch:
            epochs.append(Counter())
        epochs[-1].update(places(step))
    return epochs


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 25), min_size=2, max_size=4),
    st.lists(st.sampled_from(["0.3", "0.5", "1", "1.25", "2", "3"]), min_size=4, max_size=4),
    st.sampled_from(["none", "best_fit"]),
    st.booleans(),
)
def test_mixed_epochs_hold_exactly_the_promised_counts(sizes, times, packing, shuffle):
    samples = store({f"s{number}": size for number, size in enumerate(sizes)})
    mixes = {f"s{number}": SourceMix(epochs=Fraction(times[number])) for number in range(len(sizes))}
    one = feed(samples, [RunStage(mix(samples, mixes, shuffle=shuffle), 4.0)], packing=packing, shuffle=shuffle)
    epochs = mixed_epochs(one)
    assume(len(epochs) == 4)  # parts of one or two samples may leave an epoch empty
    source_of = {samples[number].place: samples.source[number] for number in range(len(samples))}
    for number, size in enumerate(sizes):
        counts = [sum(num for place, num in epoch.items() if source_of[place] == number) for epoch in epochs]
        for epoch in range(1, 5):
            promised = Fraction(times[number]) * size * epoch
            assert abs(sum(counts[:epoch]) - promised) <= Fraction(1, 2)  # roundings never add up
        each = sum((epoch for epoch in epochs), Counter())
        seen = [num for place, num in each.items() if source_of[place] == number]
        if len(seen) == size:
            assert max(seen) - min(seen) <= 1  # none comes again before all came


def stages_of(samples):
    """books once; law and chat half and half for 20 steps; all, for about 500 tokens."""
    return [
        RunStage(mix(samples, None, ["books"], 0), 1.0, name="read"),
        RunStage(
            mix(samples, {"law": SourceMix(share=Fraction(1, 2)), "chat": SourceMix(share=Fraction(1, 2))},
                ["law", "chat"], 1), steps=20, name="talk",
        ),
        RunStage(mix(samples, {"law": SourceMix(epochs=Fraction(1, 3))}, None, 2), tokens=500, name="all"),
    ]  # fmt: skip


def test_stages_run_in_order_each_with_its_own_mix_and_length():
    samples = store(SIZES)
    one = feed(samples, stages_of(samples))
    steps = [one.step(number) for number in range(one.num_steps)]
    by_stage = {name: [step for step in steps if step.stage == name] for name in ("read", "talk", "all")}
    assert [step.stage for step in steps] == ["read"] * 3 + ["talk"] * 20 + ["all"] * len(by_stage["all"])
    assert sum(map(len, map(places, by_stage["read"]))) == 9 and set(by_stage["read"][0].tokens_by_source) == {"books"}
    tokens = [step.num_tokens for step in by_stage["all"]]
    assert sum(tokens) >= 500 > sum(tokens[:-1])
    source_of = {samples[number].place: NAMES[samples.source[number]] for number in range(len(samples))}
    epoch = Counter(source_of[place] for step in by_stage["talk"][:10] for place in places(step))
    assert epoch == {"law": 20, "chat": 20}  # chat has 20, and law gives as many
    again = Counter(place for step in by_stage["talk"] for place in places(step) if source_of[place] == "law")
    assert len(again) == 30  # the second epoch takes the ten of law that the first left out
    assert one.step(3).begins_epoch and one.step(2).ends_epoch and one.step(22).ends_epoch
    assert [one.epochs_after(num) for num in (3, 13, 20, 23)] == [1.0, 2.0, 2.7, 3.0]


def test_any_step_can_be_asked_for_first():
    samples = store(SIZES)
    whole = all_places(feed(samples, stages_of(samples), packing="best_fit"))
    for number in range(len(whole) - 1, -1, -3):
        assert places(feed(samples, stages_of(samples), packing="best_fit").step(number)) == whole[number]


def test_max_steps_may_cut_stages_short_and_not_go_beyond_them():
    samples = store(SIZES)
    one = feed(samples, stages_of(samples), max_steps=5)
    assert one.num_steps == 5 and one.step(4).ends_epoch and one.step(4).stage == "talk"
    with pytest.raises(ArgumentError, match="max_steps is 999, and data_stages end after 3[0-9] steps"):
        feed(samples, stages_of(samples), max_steps=999)


def test_packed_rows_hold_their_capacity_whatever_the_epoch_takes():
    samples = store(SIZES)
    mixes = {"law": SourceMix(share=Fraction(2, 5)), "chat": SourceMix(epochs=Fraction(3, 4))}
    one = feed(samples, [RunStage(mix(samples, mixes), 4.0)], packing="best_fit", capacity=20)
    lengths = [sum(map(len, row)) for step in map(one.step, range(one.num_steps)) for row in step.rows]
    assert max(lengths) <= 20 and sum(lengths) / len(lengths) > 15


def test_an_epoch_that_takes_nothing_is_passed_over():
    samples = store({"law": 2, "chat": 1})
    mixes = {"law": SourceMix(epochs=Fraction("0.2")), "chat": SourceMix(epochs=Fraction("0.4"))}
    one = feed(samples, [RunStage(mix(samples, mixes), 5.0)])
    assert [len(places(one.step(number))) for number in range(one.num_steps)] == [2, 2]
    assert [one.epochs_after(num) for num in (1, 2)] == [2.0, 4.0]
    with pytest.raises(ArgumentError, match="takes no sample in any epoch"):
        feed(samples, [RunStage(mix(samples, mixes), 1.0)])


BASE = dict(seed=7, shuffle=True, packing="none", capacity=24)


@pytest.mark.parametrize(
    "key, changes",
    [
        ("seed", {"seed": 8}), ("shuffle", {"shuffle": False}), ("packing", {"packing": "best_fit"}),
        ("samples_per_step", {"rows": 4}), ("dataloader_drop_last", {"drop_last": True}), ("data", {"data_seed": 1}),
        ("rows", {"mix_seed": 9}), ("mixing", {"times": "2.5"}), ("num_samples", {"law": 31}),
    ],
)  # fmt: skip
def test_another_run_is_described_otherwise(key, changes):
    def describe(law=30, data_seed=0, mix_seed=7, times="1.5", **more):
        samples = store({**SIZES, "law": law}, data_seed)
        mixes = {"chat": SourceMix(epochs=Fraction(times))}
        stage = RunStage(mix(samples, mixes, seed=mix_seed, shuffle=more.get("shuffle", True)), 2.0)
        return feed(samples, [stage], **{**BASE, **more}).describe()

    one, other = describe(), describe(**changes)
    assert describe() == one
    assert one[key] != other[key]


def test_more_ranks_and_a_longer_last_stage_are_the_same_run():
    samples = store(SIZES)
    first, second, last = stages_of(samples)
    longer = [first, second, RunStage(last.mix, tokens=900, name="all")]
    one = feed(samples, stages_of(samples)).describe()
    assert one == feed(samples, longer, rows=1, ranks=2).describe()
    assert one != feed(samples, [RunStage(first.mix, 2.0, name="read"), second, last]).describe()
