"""Steps over data that is read while training: nothing lost, nothing twice, and resumed anywhere."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import pytest

from paddle_sft.core.errors import CheckpointError, DataError
from paddle_sft.data.stream_mix import StreamMix
from paddle_sft.train.feed import FeedSettings
from paddle_sft.train.plan import StepShape
from paddle_sft.train.stream_feed import StreamFeed, StreamStage
from tests import tiny

SIZES = {"law": 30, "chat": 20, "books": 9}


class ListStream:
    """The slow obvious stream: lists of samples. `read` counts samples; a position is a multiple of `chunk`."""

    def __init__(self, sizes=None, chunk=4, seed=0):
        sizes = sizes or SIZES
        samples = tiny.make_samples(sum(sizes.values()), seed)
        self.source_names = tuple(sizes)
        self.samples, self.read, self.chunk = [], 0, chunk
        for size in sizes.values():
            self.samples.append([samples.pop(0) for _ in range(size)])

    def source_samples(self, source, epoch, skip=0, start=None):
        return Walk(self, self.samples[source], skip, start)

    def close(self):
        self.is_closed = True

    def describe(self):
        return {"sizes": [len(samples) for samples in self.samples]}


class Walk:
    def __init__(self, stream, samples, skip, start):
        self.stream, self.samples = stream, samples
        self.next = start["sample"] if start else 0
        assert self.next <= skip < self.next + stream.chunk or skip == self.next == len(samples)
        for _ in range(skip - self.next):
            next(self)

    @property
    def position(self):
        return {"sample": self.next - self.next % self.stream.chunk}

    def __next__(self):
        if self.next == len(self.samples):
            raise StopIteration
        self.next += 1
        self.stream.read += 1
        return self.samples[self.next - 1]


def shares(*values):
    return [Fraction(str(value)) for value in values]


def make(sizes=None, mixes=None, rows=2, accumulation=2, ranks=1, max_steps=60, block_tokens=60, stream=None, **more):
    """A feed; `mixes` has (sources, shares, steps) of each stage."""
    stream = stream or ListStream(sizes)
    mixes = mixes or [(range(len(stream.source_names)), None, None)]
    unit, repeats = more.pop("unit", "samples"), more.pop("repeats", False)
    stages = [
        StreamStage(StreamMix(stream, sources, parts, unit, repeats), steps, f"stage {number}")
        for number, (sources, parts, steps) in enumerate(mixes)
    ]
    shape = StepShape(rows, accumulation, ranks, more.pop("drop_last", False))
    settings = FeedSettings(shape, **{"seed": 7, "capacity": 24, "max_steps": max_steps, **more})
    return StreamFeed(stream, stages, settings, block_tokens)


def places(step):
    return list(step.places())


def epochs_of(feed):
    """Counter of places by epoch; the last may be cut short."""
    epochs = []
    for step in map(feed.step, range(feed.num_steps)):
        if step.begins_epoch:
            epochs.append(Counter())
        epochs[-1].update(places(step))
    return epochs


PACKINGS = ["none", "best_fit", "greedy", "sequential"]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("block_tokens", [1, 60, 10**6])
def test_every_sample_is_seen_once_in_every_epoch(packing, shuffle, block_tokens):
    feed = make(packing=packing, shuffle=shuffle, block_tokens=block_tokens)
    epochs = epochs_of(feed)
    assert len(epochs) >= 3
    for epoch in epochs[:-1]:
        assert len(epoch) == 59 and set(epoch.values()) == {1}


def test_without_shuffling_and_packing_the_order_is_that_of_the_data():
    feed = make(shuffle=False, max_steps=15)
    seen = sum((places(feed.step(number)) for number in range(15)), [])
    assert seen == [f"train.json line {number}" for number in range(1, 60)]


def test_blocks_are_shuffled_each_in_its_own_way_and_rows_fill_up():
    one = [places(step) for step in map(make().step, range(15))]
    other = [places(step) for step in map(make(seed=8).step, range(15))]
    assert one != other and one == [places(step) for step in map(make().step, range(15))]
    feed = make(packing="best_fit", max_steps=15, block_tokens=300)
    rows = [row for step in map(feed.step, range(8)) for row in step.rows]
    assert max(sum(map(len, row)) for row in rows) <= 24
    assert sum(sum(map(len, row)) for row in rows) / len(rows) > 20


def test_together_the_ranks_see_what_one_rank_sees():
    feeds = {ranks: make(rows=4 // ranks, ranks=ranks, packing="best_fit", max_steps=20) for ranks in (1, 2, 4)}
    for number in range(20):
        steps = {ranks: feed.step(number) for ranks, feed in feeds.items()}
        assert places(steps[1]) == places(steps[2]) == places(steps[4])
        for ranks, step in steps.items():
            parts = [[sample.place for batch in step.micro_batches(rank) for row in batch for sample in row]
                     for rank in range(ranks)]  # fmt: skip
            assert Counter(sum(parts, [])) == Counter(places(step))


@pytest.mark.parametrize("unit", ["samples", "tokens", "trained_tokens"])
def test_shares_hold_at_every_moment_to_within_a_sample(unit):
    feed = make(
        mixes=[((0, 1, 2), shares(0.5, 0.3, 0.2), None)], unit=unit, repeats=True, shuffle=False, block_tokens=1,
        rows=1, accumulation=1, max_steps=300,
    )  # fmt: skip
    given, longest = Counter(), 0
    owner = {sample.place: name for name, samples in zip(SIZES, feed.stream.samples) for sample in samples}
    for step in map(feed.step, range(300)):
        (sample,) = step.rows[0]
        size = {"samples": 1, "tokens": len(sample), "trained_tokens": sample.num_trained}[unit]
        given[owner[sample.place]] += size
        longest = max(longest, size)
        for name, share in zip(SIZES, (0.5, 0.3, 0.2)):
            assert abs(given[name] - share * sum(given.values())) <= 1.5 * longest


def test_a_source_at_its_end_ends_the_epoch_or_begins_again():
    halves = [((0, 1), shares(0.5, 0.5), None)]
    stop = epochs_of(make(mixes=halves, max_steps=40))
    assert all(set(epoch.values()) == {1} for epoch in stop)  # no sample twice
    law, chat = ({sample.place for sample in samples} for samples in ListStream().samples[:2])
    assert set(stop[0]) >= chat and len(stop[0]) == 41  # all 20 of chat, and of law one more, as it comes first
    assert len((set(stop[0]) | set(stop[1])) & law) == 30  # law goes on where it was
    repeat = epochs_of(make(mixes=halves, repeats=True, max_steps=40))
    assert sum(repeat[0].values()) == 60 and len(repeat[0]) == 50  # every sample, those of chat one and a half times
    assert max(repeat[0].values()) == 2


STAGES = [((2,), None, 3), ((0, 1), shares(0.25, 0.75), 11), ((0, 1, 2), None, None)]


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@pytest.mark.parametrize(
    "mixes", [None, STAGES, [((0, 1, 2), shares(0.5, 0.25, 0.25), None)]], ids=["plain", "stages", "mix"]
)
@pytest.mark.parametrize("block_tokens", [50, 400])
def test_resumed_after_any_step_it_goes_on_with_exactly_what_was_not_seen(packing, mixes, block_tokens):
    settings = dict(mixes=mixes, packing=packing, block_tokens=block_tokens, max_steps=40, unit="tokens")
    whole = make(**settings)
    steps, states = [], []
    for number in range(40):
        states.append(json.dumps(whole.state()))
        steps.append(whole.step(number))
    for number in range(0, 40, 3):
        again = make(**settings)
        again.restore(json.loads(states[number]), number)
        for after in range(number, 40):
            step = again.step(after)
            assert places(step) == places(steps[after])
            assert (step.begins_epoch, step.ends_epoch, step.stage) == (
                steps[after].begins_epoch, steps[after].ends_epoch, steps[after].stage,
            )  # fmt: skip
            assert step.tokens_by_source == steps[after].tokens_by_source


def test_resuming_reads_one_block_again_and_not_all_that_came_before():
    settings = dict(sizes={"": 2000}, block_tokens=200, max_steps=400, packing="best_fit")
    whole = make(**settings)
    for number in range(400):
        whole.step(number)
    assert whole.stream.read > 1500
    again = make(**settings)
    again.restore(json.loads(json.dumps(whole.state())), 400)
    assert 0 < again.stream.read <= 2 * 200 // 4 + again.stream.chunk


def test_other_data_at_that_place_is_refused():
    whole = make()
    for number in range(5):
        whole.step(number)
    other = make(stream=ListStream(seed=1))
    with pytest.raises(CheckpointError, match="the data that comes next is not what the interrupted run read there"):
        other.restore(whole.state(), 5)
    assert make(seed=8).describe() != whole.describe() != make(sizes={"law": 5}).describe()
    assert json.loads(json.dumps(whole.describe())) == make().describe()


def test_stages_follow_one_another_and_the_last_goes_on_to_the_end():
    feed = make(mixes=STAGES, max_steps=40)
    steps = [feed.step(number) for number in range(40)]
    assert [step.stage for step in steps] == ["stage 0"] * 3 + ["stage 1"] * 11 + ["stage 2"] * 26
    assert [step.ends_epoch for step in (steps[2], steps[13], steps[39])] == [True, True, True]
    assert steps[3].begins_epoch and set(steps[0].tokens_by_source) == {"books"}


def test_drop_last_leaves_the_short_step_of_each_epoch_out():
    epochs = epochs_of(make(sizes={"": 10}, drop_last=True, max_steps=6))
    assert [sum(epoch.values()) for epoch in epochs] == [8, 8, 8]
    assert len(places(make(sizes={"": 3}, drop_last=True, max_steps=2).step(0))) == 3  # rather that than no step


def test_what_can_not_be_trained_on_is_refused():
    with pytest.raises(DataError, match="^books: the data gives no sample to train on"):
        make(sizes={"law": 3, "books": 0}, max_steps=9).step(0)
    feed = make()
    feed.step(0)
    with pytest.raises(ValueError, match="1 comes next, not 5"):
        feed.step(5)
    known = []
    feed = make(block_tokens=10**6)
    feed.check_ids = known.append
    feed.step(0)
    assert known == [max(int(sample.ids.max()) for samples in feed.stream.samples for sample in samples)]


def test_epochs_that_are_done_are_counted():
    feed = make(sizes={"": 10}, max_steps=7)
    seen = []
    for number in range(7):
        feed.step(number)
        seen.append(feed.epochs_after(number + 1))
    assert seen == [0, 0, 1, 1, 1, 2, 2]
