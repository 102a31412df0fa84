"""Weights to codes and back, by Paddle's operators on any device.

Codes and scales of nf4 and fp4 equal those of bitsandbytes 0.50 on a CPU bit for bit.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Tuple

import paddle
from paddle import Tensor

from paddle_sft.core.errors import ModelError
from paddle_sft.operators.dequantise import dequantise_compiled
from paddle_sft.quant.levels import LEVELS, dynamic_levels, midpoints
from paddle_sft.quant.scheme import Scheme

_CHUNK = 1 << 20
"""Weights that are quantised at a time: what is needed beside the weight and its codes is some MiB."""
_SMALLEST = 1e-38
"""Scales below are taken for this where they divide; bitsandbytes' number."""
_GRID = 65535
"""Steps of the grid to which bitsandbytes rounds scales before it looks for their level."""

Arrays = Dict[str, Tensor]
"""The arrays of a weight, named as in `Scheme.shapes`."""


@paddle.no_grad()
def quantise(weight: Tensor, scheme: Scheme, name: str = "the weight", scales: Optional[Tensor] = None) -> Arrays:
    """Codes and scales of a weight [out, in] of any floating type. Two codes of 4 bits in a byte, the first above.

    Args:
        scales: float32 [blocks], for whole numbers only: those of a grid that the weight lies on already (GPTQ); it
            keeps its values, the lowest level (-8 or -128) among them. None: largest magnitude of a block over the
            largest level.

    Raises:
        ModelError: it holds NaN or infinities; `name` says which weight.
    """
    block = scheme.block(int(weight.shape[1]))
    codes: List[Tensor] = []
    found: List[Tensor] = []
    for part in _chunks(weight, block):
        if not bool(paddle.isfinite(part).all()):
            raise ModelError(
                f"{name} holds NaN or infinite numbers, which have no code; go back to an earlier checkpoint, or copy "
                "the model again"
            )
        if scales is not None:
            begin = sum(len(one) for one in found)
            scale = scales[begin : begin - (-part.shape[0] // block)]
            one = _whole_numbers(part, scale, block, float(LEVELS[scheme.algorithm].min()))
        else:
            one, scale = (_quantise_whole if is_whole(scheme) else _quantise_float)(part, block, scheme.algorithm)
        codes.append(pack(one, scheme.algorithm) if scheme.bits == 4 else one)
        found.append(scale)
    arrays = {"codes": paddle.concat(codes), "scales": paddle.concat(found)}
    return {"codes": arrays["codes"], **_quantise_scales(arrays["scales"], scheme)} if scheme.double_quant else arrays


def is_whole(scheme: Scheme) -> bool:
    """Whether the levels are whole numbers."""
    return scheme.algorithm in ("weight_only_int4", "weight_only_int8")


def _chunks(weight: Tensor, block: int) -> Iterator[Tensor]:
    """Whole blocks of a weight laid end to end, in float32; an even number of them, so that every chunk fills bytes."""
    flat = weight.reshape([-1])
    size = 2 * block * max(1, _CHUNK // (2 * block))
    for start in range(0, flat.shape[0], size):
        yield flat[start : start + size].astype("float32")


def _blocks(part: Tensor, block: int) -> Tuple[Tensor, Tensor]:
    """(full blocks [N, block], the shorter block at the end [R], which may be empty)."""
    full = part.shape[0] // block * block
    return part[:full].reshape([-1, block]), part[full:]


def _quantise_float(part: Tensor, block: int, algorithm: str) -> Tuple[Tensor, Tensor]:
    bounds, order = (paddle.to_tensor(table) for table in midpoints(LEVELS[algorithm]))
    full, rest = _blocks(part, block)
    scales, scaled = [], []
    if full.shape[0]:
        scale = full.abs().max(-1)
        scales.append(scale)
        scaled.append((full * (1.0 / scale.clip(min=_SMALLEST)).unsqueeze(-1)).reshape([-1]))
    if rest.shape[0]:  # bitsandbytes divides here, which is rounded otherwise
        scale = rest.abs().max().reshape([1]).clip(min=_SMALLEST)
        scales.append(scale)
        scaled.append(rest / scale)
    places = paddle.bucketize(paddle.concat(scaled).clip(-1.0, 1.0), bounds, out_int32=True)
    return paddle.gather(order, places).astype("uint8"), paddle.concat(scales)


def _quantise_whole(part: Tensor, block: int, algorithm: str) -> Tuple[Tensor, Tensor]:
    """Whole numbers -n to n times the scale, which is the largest magnitude over n."""
    largest = float(LEVELS[algorithm].max())
    scales = paddle.concat([one.abs().max(-1).reshape([-1]) / largest for one in _blocks(part, block) if one.size])
    return _whole_numbers(part, scales, block, -largest), scales


def _whole_numbers(part: Tensor, scales: Tensor, block: int, least: float) -> Tensor:
    """Codes of the nearest numbers of least, ..., n, n being 7 or 127."""
    largest = 7.0 if least >= -8 else 127.0
    divisor = _repeat(scales.clip(min=_SMALLEST), block, part.shape[0])
    return (paddle.round(part / divisor).clip(least, largest) + (largest + 1)).astype("uint8")


def pack(codes: Tensor, algorithm: str) -> Tensor:
    """Two codes of 4 bits in a byte, the first above; an odd one at the end has the code of 0 below."""
    if codes.shape[0] % 2:
        zero = int((LEVELS[algorithm] == 0).argmax())
        codes = paddle.concat([codes, paddle.full([1], zero, dtype="uint8")])
    pairs = codes.reshape([-1, 2])
    return pairs[:, 0] * 16 + pairs[:, 1]


def _quantise_scales(scales: Tensor, scheme: Scheme) -> Arrays:
    """Scales as their mean plus 8-bit codes (QLoRA, section 3, "Double Quantization")."""
    offset = scales.astype("float64").mean().astype("float32").reshape([1])
    codes, second = quantise_dynamic(scales - offset, scheme.double_quant_block_size)
    return {"scale_codes": codes, "scale_scales": second, "scale_offset": offset}


@paddle.no_grad()
def quantise_dynamic(values: Tensor, block: int) -> Tuple[Tensor, Tensor]:
    """(codes of `dynamic_levels` [N], scales) of float32 values [N].

    As bitsandbytes' CPU library: the scaled value is rounded to one of 65,536 equally spaced numbers of [-1, 1] first,
    which moves 0.15 % of the codes by one. A block of zeros has code 0 and scale 0.
    """
    scales = paddle.concat([part.abs().max(-1).reshape([-1]) for part in _blocks(values, block) if part.size])
    of_value = _repeat(scales, block, values.shape[0])
    scaled = (values * (1.0 / of_value.clip(min=_SMALLEST))).clip(-1.0, 1.0)
    on_grid = ((scaled + 1.0) * 0.5).astype("float64") * _GRID + 0.5  # rounded to float32 once: a fused multiply-add
    nearest = on_grid.astype("float32").astype("int32").astype("float32") * 2.0 / _GRID - 1.0
    codes = paddle.bucketize(nearest, paddle.to_tensor(midpoints(dynamic_levels())[0]), out_int32=True)
    return paddle.where(of_value > 0, codes, paddle.zeros_like(codes)).astype("uint8"), scales


def _repeat(scales: Tensor, block: int, count: int) -> Tensor:
    """The scale of each of `count` values."""
    return scales.unsqueeze(-1).expand([-1, block]).reshape([-1])[:count]


@paddle.no_grad()
def scales_of(arrays: Arrays, scheme: Scheme) -> Tensor:
    """The scale of every block [N] in float32."""
    if not scheme.double_quant:
        return arrays["scales"]
    levels = paddle.gather(paddle.to_tensor(dynamic_levels()), arrays["scale_codes"].astype("int32"))
    of_value = _repeat(arrays["scale_scales"], scheme.double_quant_block_size, levels.shape[0])
    return levels * of_value + arrays["scale_offset"]


@paddle.no_grad()
def dequantise(arrays: Arrays, scheme: Scheme, in_features: int, out_features: int) -> Tensor:
    """The weight [out, in] in float32: level times scale, one product for each number."""
    scales, block = scales_of(arrays, scheme), scheme.block(in_features)
    shape = [out_features, in_features]
    if arrays["codes"].place.is_cpu_place():
        found = dequantise_compiled(arrays["codes"], LEVELS[scheme.algorithm], scales, shape, block)
        if found is not None:
            return found
    return composed_dequantise(arrays["codes"], scheme, scales, block, in_features * out_features).reshape(shape)


def composed_dequantise(codes: Tensor, scheme: Scheme, scales: Tensor, block: int, count: int) -> Tensor:
    """`dequantise` by Paddle's operators, laid end to end [count]."""
    levels = LEVELS[scheme.algorithm]
    if scheme.bits == 8:
        values = codes.astype("float32") + float(levels[0])
    else:
        first, second = levels.repeat(16), levels.reshape([1, 16]).repeat(16, 0).reshape([-1])
        pairs = paddle.stack([paddle.to_tensor(first), paddle.to_tensor(second)], axis=-1)
        values = paddle.gather(pairs, codes.astype("int32")).reshape([-1])[:count]
    full, rest = _blocks(values, block)
    parts = [(full * scales[: full.shape[0]].unsqueeze(-1)).reshape([-1])] if full.shape[0] else []
    return paddle.concat(parts + ([rest * scales[-1]] if rest.shape[0] else []))
