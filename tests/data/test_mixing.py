"""Quotas and draws against what the mix says, counted sample by sample."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.arguments.mixing import UNITS, SourceMix, read_mixing
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.mixing import Mix, mix_table
from paddle_sft.data.quotas import SourceSamples, make_quotas, sources_of
from paddle_sft.data.store import SampleStore
from tests import tiny


def make_sources(sizes, seed=0):
    random = np.random.default_rng(seed)
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    found = []
    for index, mine in enumerate(numbers):
        lengths = random.integers(2, 40, len(mine))
        found.append(SourceSamples(f"s{index}", mine, lengths, (lengths + 1) // 2))
    return found


def amounts(sources, numbers, unit):
    """What an epoch has of each source, counted one sample at a time."""
    size = {number: value for one in sources for number, value in zip(one.numbers, one.sizes(unit))}
    owner = {number: index for index, one in enumerate(sources) for number in one.numbers}
    totals = Counter()
    for number in numbers:
        totals[owner[number]] += size[number]
    return [int(totals[index]) for index in range(len(sources))]


def make_mix(sources, mixes, unit="samples", exhausted="stop", seed=1, **more):
    return Mix(sources, make_quotas(sources, mixes, unit, exhausted), seed, unit=unit, **more)


def shares_of(*shares):
    return {f"s{index}": SourceMix(share=Fraction(share)) for index, share in enumerate(shares)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(3, 60), min_size=2, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.sampled_from(UNITS),
    st.sampled_from(["stop", "repeat"]),
    st.integers(0, 5),
)
def test_every_epoch_has_the_shares_to_within_one_sample(sizes, parts, unit, exhausted, seed):
    sources = make_sources(sizes, seed)
    total = sum(parts[: len(sizes)])
    mixes = shares_of(*(Fraction(part, total) for part in parts[: len(sizes)]))
    mix = make_mix(sources, mixes, unit, exhausted, seed)
    quotas = mix.quotas
    longest = max(int(one.sizes(unit).max()) for one in sources)
    wholes = [int(one.sizes(unit).sum()) for one in sources]
    for epoch in range(4):
        numbers = mix.draw(epoch)
        got = amounts(sources, numbers, unit)
        for index, quota in enumerate(quotas):
            assert abs(got[index] - quota.amount) <= longest
        if exhausted == "stop":
            assert max(Counter(numbers.tolist()).values()) == 1  # no sample twice in an epoch
            assert any(abs(size - whole) <= longest for size, whole in zip(got, wholes))  # and no shorter than needed
    everything = np.concatenate([mix.draw(epoch) for epoch in range(4)])
    for got, quota in zip(amounts(sources, everything, unit), quotas):
        assert abs(got - 4 * quota.amount) <= Fraction(longest, 2)  # roundings don't add up
    if exhausted == "repeat" and unit == "samples":
        assert set(mix.draw(0).tolist()) == set(range(sum(sizes)))  # every sample of every source


@settings(max_examples=40, deadline=None)
@given(
    st.integers(4, 40),
    st.integers(4, 40),
    st.sampled_from(["0.25", "0.5", "1", "1.5"]),
    st.sampled_from(["0.1", "0.5"]),
    st.sampled_from(UNITS),
    st.sampled_from([None, 5]),
)
def test_a_share_beside_sources_with_epochs_and_caps_is_a_share_of_what_is_really_given(
    first, second, epochs, share, unit, cap
):
    sources = make_sources([first, second, 12, 30])
    mixes = {
        "s0": SourceMix(epochs=Fraction(epochs)), "s1": SourceMix(share=Fraction(share)),
        "s2": SourceMix(max_samples=cap), "s3": SourceMix(share=Fraction("0.3"), max_tokens=50),
    }  # fmt: skip
    mix = make_mix(sources, mixes, unit, "repeat")
    total = np.zeros(4, dtype=np.int64)
    for epoch in range(6):
        drawn = mix.draw(epoch)
        total += amounts(sources, drawn, unit)
        assert amounts(sources, drawn, "tokens")[3] <= 50
        assert abs(total[1] - Fraction(share) * int(total.sum())) <= 20  # half of the longest sample
    assert total[3] < 0.3 * total.sum()  # at its cap, and the others keep their shares of what is there


def test_of_several_sources_beyond_their_caps_each_gives_its_cap_and_the_rest_keep_their_shares():
    sources = make_sources([100, 100, 100, 100])
    mixes = {
        "s0": SourceMix(share=Fraction("0.3"), max_samples=20), "s1": SourceMix(share=Fraction("0.2"), max_samples=60),
        "s2": SourceMix(share=Fraction("0.25")),
    }  # fmt: skip
    mix = make_mix(sources, mixes, exhausted="repeat")
    # 100 of s3 are a quarter, until s0 gives 20 only: then 120 are 55 %, and of 218.2 the 0.2 of s1 is below its cap
    assert amounts(sources, np.concatenate([mix.draw(epoch) for epoch in range(11)]), "samples") == [
        220,
        480,
        600,
        1100,
    ]


def test_with_stop_an_epoch_whose_fixed_sources_draw_long_samples_repeats_none():
    sources = make_sources([40, 40])
    half = {"s0": SourceMix(epochs=Fraction(1, 2)), "s1": SourceMix(share=Fraction("0.66"))}
    for seed in range(9):
        mix = make_mix(sources, half, "tokens", "stop", seed)
        for epoch in range(4):
            assert max(Counter(mix.draw(epoch).tolist()).values()) == 1


def test_epochs_go_through_a_source_before_they_begin_again():
    sources = make_sources([10, 4])
    mixes = {"s0": SourceMix(epochs=Fraction("0.3")), "s1": SourceMix()}
    mix = make_mix(sources, mixes, seed=5)
    drawn = [[number for number in mix.draw(epoch) if number < 10] for epoch in range(7)]
    assert [len(one) for one in drawn] == [3] * 7
    flat = sum(drawn, [])
    assert sorted(flat[:10]) == list(range(10)) and flat[10:20] == flat[:10]
    assert flat[:10] != sorted(flat[:10])
    other = make_mix(sources, mixes, seed=6)
    assert other.draw(0).tolist() != mix.draw(0).tolist()
    again = make_mix(sources, mixes, seed=5)
    assert again.draw(6).tolist() == mix.draw(6).tolist()  # a function of the epoch, whatever was drawn before


@pytest.mark.parametrize(
    "mix, expected",
    [
        (SourceMix(max_samples=4), [4, 4, 4]),
        (SourceMix(epochs=Fraction(2), max_samples=15), [15, 15, 15]),
        (SourceMix(max_samples=99), [10, 10, 10]),
        (SourceMix(share=Fraction("0.5"), max_samples=3), [3, 3, 3]),
    ],
)
def test_a_cap_in_samples_cuts_its_own_source_and_epochs_still_go_through_it(mix, expected):
    sources = make_sources([10, 20])
    quotas = make_quotas(sources, {"s0": mix}, "samples", "repeat")
    drawn = [Mix(sources, quotas, 1).draw(epoch) for epoch in range(3)]
    assert [int((numbers < 10).sum()) for numbers in drawn] == expected
    assert [int((numbers >= 10).sum()) for numbers in drawn] == [20] * 3
    seen = Counter(number for numbers in drawn for number in numbers.tolist() if number < 10)
    assert max(seen.values()) - min(seen.get(number, 0) for number in range(10)) <= 1


@pytest.mark.parametrize("unit", UNITS)
def test_a_cap_in_tokens_is_never_passed(unit):
    sources = make_sources([30, 30])
    mixes = {"s0": SourceMix(share=Fraction("0.9"), max_tokens=100), "s1": SourceMix(max_tokens=70)}
    mix = make_mix(sources, mixes, unit, "repeat")
    for epoch in range(9):
        first, second = amounts(sources, mix.draw(epoch), "tokens")
        assert 100 - 40 < first <= 100 and 70 - 40 < second <= 70


def test_what_a_mix_cannot_give_is_refused():
    sources = make_sources([10, 20])
    half = {"s0": SourceMix(share=Fraction(1, 2))}
    with pytest.raises(ArgumentError, match=r'share 0.5 is 20 samples an epoch, and it has 10.*"repeat"'):
        make_quotas(sources, half, "samples", "stop")
    assert [quota.amount for quota in make_quotas(sources, half, "samples", "repeat")] == [20, 20]
    with pytest.raises(ArgumentError, match="mixing names s7, which has no training data"):
        make_quotas(sources, {"s7": SourceMix()}, "samples", "stop")
    nothing = dict.fromkeys(("s0", "s1"), SourceMix(max_tokens=1))
    with pytest.raises(DataError, match="max_tokens in mixing is less than the first sample"):
        Mix(sources, make_quotas(sources, nothing, "samples", "stop"), 1)
    untrained = [SourceSamples("s0", np.arange(3), np.ones(3, int), np.zeros(3, int)), *sources[1:]]
    with pytest.raises(DataError, match="s0: it has no trained tokens"):
        make_quotas(untrained, shares_of("0.5", "0.5"), "trained_tokens", "stop")


def test_without_shuffling_the_sources_are_spread_evenly_in_their_own_order():
    sources = make_sources([4, 8])
    mix = Mix(sources, make_quotas(sources, {"s0": SourceMix(epochs=Fraction(1))}, "samples", "stop"), 1, shuffle=False)
    assert mix.draw(0).tolist() == [4, 0, 5, 6, 1, 7, 8, 2, 9, 10, 3, 11]
    plain = Mix(sources, make_quotas(sources, {}, "samples", "stop"), 1, shuffle=False, mixed=False)
    assert plain.draw(0).tolist() == list(range(12))


def test_the_table_says_what_the_first_epoch_has():
    samples = SampleStore.of(tiny.make_samples(12), [0] * 4 + [1] * 8, ("law", "chat"))
    sources = sources_of(samples)
    mix = Mix(sources, make_quotas(sources, {"law": SourceMix(epochs=Fraction("1.5"))}, "samples", "stop"), 1)
    law, chat = mix_table(mix, samples, 2.0)
    drawn = [samples[number] for number in mix.draw(0)]
    tokens = [sum(map(len, drawn[:6])), sum(map(len, drawn[6:]))]
    assert (law["samples"], chat["samples"], law["num_samples"]) == (6, 8, 4)
    assert [law["tokens"], chat["tokens"]] == tokens
    assert law["tokens_share"] == pytest.approx(tokens[0] / sum(tokens)) and law["samples_share"] == 6 / 14
    assert law["trained_tokens"] == sum(sample.num_trained for sample in drawn[:6])
    assert (law["epochs"], law["epochs_of_run"], chat["epochs_of_run"]) == (1.5, 3.0, 2.0)


def test_the_table_says_how_often_the_run_really_sees_a_source():
    samples = SampleStore.of(tiny.make_samples(12), [0] * 5 + [1] * 7, ("law", "chat"))
    sources = sources_of(samples)
    mix = make_mix(sources, {"law": SourceMix(epochs=Fraction("0.3"))})  # 1.5 samples: 1 or 2 in turn
    for num_epochs in (1, 2, 7):
        seen = np.concatenate([mix.draw(epoch) for epoch in range(num_epochs)])
        law, chat = mix_table(mix, samples, num_epochs)
        assert law["epochs_of_run"] == (seen < 5).sum() / 5 and chat["epochs_of_run"] == num_epochs
    assert mix_table(mix, samples, 2.5)[0]["epochs_of_run"] == (3 + 0.5 * len(mix.draw(2)[mix.draw(2) < 5])) / 5
    static = make_mix(sources, {"law": SourceMix(epochs=Fraction(2))})
    assert mix_table(static, samples, 2.5)[0]["epochs_of_run"] == 5.0


def test_a_list_of_decimal_shares_adds_up_exactly():
    mixes = read_mixing([0.1, 0.2, 0.7], ["s0", "s1", "s2"]).value
    sources = make_sources([1000, 1000, 1000])
    quotas = make_quotas(sources, mixes, "samples", "stop")
    assert sum(mix.share for mix in mixes.values()) == 1 and quotas[2].amount == 1000
    assert len(Mix(sources, quotas, 1).draw(0)) == 143 + 286 + 1000
