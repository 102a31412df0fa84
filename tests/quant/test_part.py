"""A part of a quantised weight is, bit for bit, that part of the whole one, and takes the memory of a part."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.quant.codec import dequantise, quantise
from paddle_sft.quant.part import INPUTS, OUTPUTS, part_scheme, take_part
from paddle_sft.quant.scheme import Scheme

SCHEMES = [
    Scheme("nf4", 64), Scheme("nf4", 64, True, 256), Scheme("fp4", 16, True, 4), Scheme("nf4", 15),
    Scheme("weight_only_int4"), Scheme("weight_only_int4", 64, True, 8), Scheme("weight_only_int8"),
    Scheme("weight_only_int8", 32, True, 8),
]  # fmt: skip
CUTS = {
    "second half of the inputs": ((64, 48), INPUTS, [(32, 64)]),
    "inputs that cut blocks": ((48, 32), INPUTS, [(12, 24)]),
    "second half of the outputs": ((64, 48), OUTPUTS, [(24, 48)]),
    "outputs that cut blocks": ((30, 10), OUTPUTS, [(5, 10)]),
    "outputs of a fused layer": ((32, 96), OUTPUTS, [(0, 16), (48, 56), (72, 80)]),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.describe)
def test_a_part_is_that_part_of_the_whole(scheme, cut):
    features, axis, ranges = CUTS[cut]
    weight = np.random.default_rng(0).standard_normal(features[::-1]).astype(np.float32)
    arrays = quantise(paddle.to_tensor(weight), scheme)
    kept = part_scheme(scheme, features, axis, ranges)
    size = sum(last - first for first, last in ranges)
    rows, columns = (size, features[1]) if axis == INPUTS else (features[0], size)
    found = dequantise(take_part(arrays, scheme, features, axis, ranges), kept, rows, columns).numpy()
    whole = dequantise(arrays, scheme, *features).numpy()
    pieces = [whole[:, first:last] if axis == INPUTS else whole[first:last] for first, last in ranges]
    np.testing.assert_array_equal(found, np.concatenate(pieces, axis=1 if axis == INPUTS else 0))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=Scheme.describe)
def test_the_arrays_of_a_part_are_those_that_its_scheme_says(scheme, cut):
    features, axis, ranges = CUTS[cut]
    arrays = quantise(paddle.ones(features[::-1]), scheme)
    size = sum(last - first for first, last in ranges)
    sizes = (size, features[1]) if axis == INPUTS else (features[0], size)
    shapes = part_scheme(scheme, features, axis, ranges).shapes(*sizes)
    taken = take_part(arrays, scheme, features, axis, ranges)
    assert {name: list(array.shape) for name, array in taken.items()} == {n: shape for n, (shape, _) in shapes.items()}


@pytest.mark.parametrize("axis", [INPUTS, OUTPUTS])
def test_a_half_of_a_layer_of_the_usual_size_takes_half_the_memory(axis):
    scheme, features = Scheme("nf4", 64), (4096, 14336)
    half = (2048, 14336) if axis == INPUTS else (4096, 7168)
    kept = part_scheme(scheme, features, axis, [(0, half[axis])])
    assert kept == scheme and 2 * kept.num_bytes(*half) == scheme.num_bytes(*features)


def test_double_quantisation_costs_little_more_in_parts():
    """Groups of 256 scales are cut by every row of the inputs' part: 32 are left of them."""
    scheme, features = Scheme("nf4", 64, True, 256), (4096, 4096)
    kept = part_scheme(scheme, features, INPUTS, [(2048, 4096)])
    assert (kept.block_size, kept.double_quant_block_size) == (64, 32)
    assert 2 * kept.num_bytes(2048, 4096) < 1.005 * scheme.num_bytes(*features)
