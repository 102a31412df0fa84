"""Codecs: what is lost is bounded by theory, what is stored is as large as promised, and every way back is the same."""

from __future__ import annotations

import shutil

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.quant.codec import composed_dequantise, dequantise, quantise, scales_of
from paddle_sft.quant.levels import LEVELS, dynamic_levels, midpoints
from paddle_sft.quant.scheme import Scheme

ALGORITHMS = sorted(LEVELS)
SCHEMES = [Scheme(name, block) for name in ALGORITHMS for block in (0, 64, 7)]
DOUBLE = [Scheme(name, 16, True, 8) for name in ALGORITHMS]


def weight(rows, columns, seed=0):
    return np.random.default_rng([seed, rows, columns]).standard_normal((rows, columns)).astype(np.float32)


def there_and_back(array, scheme):
    rows, columns = array.shape
    return dequantise(quantise(paddle.to_tensor(array), scheme), scheme, columns, rows).numpy()


def slow_levels(array, scheme):
    """The nearest level of every weight by looking at all of them, in double precision, block by block."""
    flat, found = array.reshape(-1).astype(np.float64), []
    levels = LEVELS[scheme.algorithm].astype(np.float64)
    used = levels[np.abs(levels) <= levels.max()]
    for start in range(0, flat.size, scheme.block(array.shape[1])):
        block = flat[start : start + scheme.block(array.shape[1])]
        scale = np.abs(block).max() / levels.max()
        found.append(scale * used[np.abs(block[:, None] - scale * used).argmin(1)])
    return np.concatenate(found).reshape(array.shape)


def half_gap(algorithm):
    """Half of the largest distance of neighbouring levels that are used, in units of the scale."""
    levels = LEVELS[algorithm]
    return np.diff(np.sort(levels[np.abs(levels) <= levels.max()])).max() / 2


def scale_of_each(array, scheme):
    block = scheme.block(array.shape[1])
    flat = np.abs(array.reshape(-1))
    largest = [flat[start : start + block].max() for start in range(0, flat.size, block)]
    return (np.repeat(largest, block)[: flat.size] / LEVELS[scheme.algorithm].max()).reshape(array.shape)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.describe())
def test_every_weight_goes_to_its_nearest_level(scheme):
    array = weight(24, 33)
    np.testing.assert_allclose(there_and_back(array, scheme), slow_levels(array, scheme), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.describe())
def test_the_error_is_at_most_half_a_gap_of_the_levels(scheme):
    array = weight(40, 65, seed=1) * 10.0 ** np.arange(-20, 20)[:, None].astype(np.float32)
    error = np.abs(there_and_back(array, scheme) - array)
    bound = half_gap(scheme.algorithm) * scale_of_each(array, scheme)
    assert (error <= bound * (1 + 1e-5)).all()
    assert (error > 0.9 * bound).any()  # the bound is reached, so a coarser code would break it


@pytest.mark.parametrize("scheme", DOUBLE, ids=lambda scheme: scheme.describe())
def test_scales_in_8_bits_add_their_own_bound(scheme):
    array = weight(40, 65, seed=2)
    scales = scale_of_each(array, scheme)
    plain = Scheme(scheme.algorithm, scheme.block_size)
    exact = scales_of(quantise(paddle.to_tensor(array), plain), plain).numpy()
    stored = scales_of(quantise(paddle.to_tensor(array), scheme), scheme).numpy()
    dynamic = dynamic_levels()
    gap = np.diff(dynamic).max() / 2 + 1.0 / 65535 + (1.0 + dynamic[0])  # -1 has no level of its own
    groups = np.abs(exact - exact.mean())
    groups = np.repeat([groups[start : start + 8].max() for start in range(0, groups.size, 8)], 8)[: exact.size]
    assert (np.abs(stored - exact) <= gap * groups * 1.0001 + 1e-7).all()
    spread = np.repeat(np.abs(stored - exact), 16)[: array.size].reshape(array.shape)
    bound = half_gap(scheme.algorithm) * scales + LEVELS[scheme.algorithm].max() * spread
    assert (np.abs(there_and_back(array, scheme) - array) <= bound * (1 + 1e-5)).all()


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    block=st.integers(0, 70),
    double=st.booleans(),
    algorithm=st.sampled_from(ALGORITHMS),
)
def test_any_size_has_the_arrays_it_promises_and_one_way_back(rows, columns, block, double, algorithm):
    scheme = Scheme(algorithm, block, double, 5)
    arrays = quantise(paddle.to_tensor(weight(rows, columns)), scheme)
    found = {name: (list(array.shape), str(array.dtype).rsplit(".", 1)[-1]) for name, array in arrays.items()}
    assert found == scheme.shapes(columns, rows)
    assert sum(array.numpy().nbytes for array in arrays.values()) == scheme.num_bytes(columns, rows)
    composed = composed_dequantise(
        arrays["codes"], scheme, scales_of(arrays, scheme), scheme.block(columns), rows * columns
    )
    again = dequantise(arrays, scheme, columns, rows).numpy()
    np.testing.assert_array_equal(again.reshape(-1), composed.numpy())


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the operators with")
def test_the_compiled_way_back_is_taken(monkeypatch):
    monkeypatch.setattr("paddle_sft.quant.codec.composed_dequantise", None)
    for name in ALGORITHMS:
        there_and_back(weight(3, 5), Scheme(name))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.describe())
def test_what_was_quantised_once_is_not_moved_again(scheme):
    once = there_and_back(weight(24, 33), scheme)
    np.testing.assert_allclose(there_and_back(once, scheme), once, rtol=1e-6)


def test_weights_of_many_chunks_are_those_of_one(monkeypatch):
    array = weight(50, 37)
    for scheme in SCHEMES + DOUBLE:
        monkeypatch.undo()
        before = quantise(paddle.to_tensor(array), scheme)
        monkeypatch.setattr("paddle_sft.quant.codec._CHUNK", 40)
        after = quantise(paddle.to_tensor(array), scheme)
        for name in before:
            np.testing.assert_array_equal(after[name].numpy(), before[name].numpy(), f"{scheme} {name}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_zeros_stay_zeros(algorithm):
    array = weight(6, 32)
    array[2:4] = 0.0
    for double in (False, True):
        found = there_and_back(array, Scheme(algorithm, 16, double))
        np.testing.assert_array_equal(found[2:4], 0.0)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_numbers_without_a_code_are_refused_by_the_name_of_the_weight(algorithm, number):
    array = weight(4, 8)
    array[3, 7] = number
    with pytest.raises(ModelError, match="^layers.0.q_proj.weight holds NaN or infinite numbers.*earlier checkpoint"):
        quantise(paddle.to_tensor(array), Scheme(algorithm, 4), "layers.0.q_proj.weight")


def test_sizes_that_the_docs_promise():
    for columns, rows in ((4096, 4096), (4096, 11008), (512, 1376)):
        count = columns * rows
        assert 8 * Scheme("nf4", 64, True).num_bytes(columns, rows) / count <= 4.2
        assert 8 * Scheme("weight_only_int8").num_bytes(columns, rows) / count <= 8.1


def test_a_wrong_name_is_answered_with_the_right_one():
    with pytest.raises(ArgumentError, match="nf5.*nf4"):
        Scheme("nf5")
    with pytest.raises(ArgumentError, match="block_size must be at least 0"):
        Scheme("nf4", -1)


def test_bounds_are_rising_and_every_level_is_reached():
    for levels in LEVELS.values():
        bounds, order = midpoints(levels)
        assert (np.diff(bounds) >= 0).all() and sorted(order) == list(range(len(levels)))
    assert len(set(dynamic_levels())) == 256
