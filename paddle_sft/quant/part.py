"""A part of a quantised weight, for ranks that have some outputs or some inputs of a layer each.

The whole weight is quantised first, so that every number is what it is in one process; then a rank keeps the codes of
its part. Where a border goes through a block, the pieces of the block become blocks of their own with the same scale.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Iterator, List, Sequence, Tuple

import numpy as np
import paddle

from paddle_sft.quant.codec import Arrays, pack, scales_of
from paddle_sft.quant.scheme import Scheme

INPUTS, OUTPUTS = 0, 1
"""Axis of a weight [in, out] that is cut."""
SMALLEST_BLOCK = 8
"""Weights of 4 bits that share a float32 scale take as much memory as 8 bits; fewer are no quantisation."""
Range = Tuple[int, int]


def part_scheme(scheme: Scheme, features: Tuple[int, int], axis: int, ranges: Sequence[Range]) -> Scheme:
    """How a part is stored: with the largest blocks that lie inside blocks of the whole weight.

    Args:
        features: (in, out) of the whole weight.
        ranges: of inputs or outputs.
    """
    rows = features[0]
    ends = {end for one in ranges for end in one}
    cuts = [rows, *ends] if axis == INPUTS else [rows * end for end in ends]
    whole = scheme.block(rows)
    block = _gcd([whole, *cuts])
    if not scheme.double_quant:
        return replace(scheme, block_size=block)
    second = _gcd([whole * scheme.double_quant_block_size, *cuts]) // block
    if second == 1:  # a float for every 8-bit code of a scale: then the float alone says as much
        return replace(scheme, block_size=block, double_quant=False)
    return replace(scheme, block_size=block, double_quant_block_size=second)


def _gcd(numbers: Sequence[int]) -> int:
    found = 0
    for number in numbers:
        found = math.gcd(found, number)
    return found


@paddle.no_grad()
def take_part(arrays: Arrays, scheme: Scheme, features: Tuple[int, int], axis: int, ranges: Sequence[Range]) -> Arrays:
    """The arrays of a part, stored as `part_scheme` says; dequantised it is, bit for bit, that part of the whole.

    Memory: the codes of the whole weight, a byte each.
    """
    kept = part_scheme(scheme, features, axis, ranges)
    runs = list(_runs(features, axis, ranges))
    whole, block = scheme.block(features[0]), kept.block_size
    codes = _taken(_unpacked(arrays["codes"].numpy(), scheme), runs)
    found = {"codes": pack(paddle.to_tensor(codes), scheme.algorithm).numpy() if scheme.bits == 4 else codes}
    blocks = np.concatenate([np.arange(first, last, block) // whole for first, last in runs])
    if not kept.double_quant:
        found["scales"] = scales_of(arrays, scheme).numpy()[blocks]
    else:
        found["scale_codes"] = arrays["scale_codes"].numpy()[blocks]
        groups = blocks[:: kept.double_quant_block_size] // scheme.double_quant_block_size
        found["scale_scales"] = arrays["scale_scales"].numpy()[groups]
        found["scale_offset"] = arrays["scale_offset"].numpy()
    return {name: paddle.to_tensor(np.ascontiguousarray(array)) for name, array in found.items()}


def _runs(features: Tuple[int, int], axis: int, ranges: Sequence[Range]) -> Iterator[Range]:
    """Where the part lies in the weight [out, in] laid end to end."""
    rows, columns = features
    if axis == OUTPUTS:
        yield from ((first * rows, last * rows) for first, last in ranges)
        return
    for column in range(columns):
        yield from ((column * rows + first, column * rows + last) for first, last in ranges)


def _taken(values: np.ndarray, runs: List[Range]) -> np.ndarray:
    return np.concatenate([values[first:last] for first, last in runs])


def _unpacked(codes: np.ndarray, scheme: Scheme) -> np.ndarray:
    """A byte for each weight."""
    return codes if scheme.bits == 8 else np.stack([codes >> 4, codes & 15], axis=1).reshape(-1)
