"""GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323) by PaddleSlim's implementation.

paddleslim 2.6.0 with paddle 3.3.1: `GPTQ.fasterquant` indexes with an empty tensor where every input of a layer was
once not zero, and Paddle can't. So the layer gets one input more, which is always zero: there is always one. It keeps
its scales to itself; they are noted where it computes them.
"""

from __future__ import annotations

import io
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleslim.quant.advanced import GPTQ
from paddleslim.quant.advanced import gptq as _module

from paddle_sft.export.slim.walk import walk_layers
from paddle_sft.models.linears import features


@dataclass(frozen=True)
class GridWeight:
    """A weight whose numbers are whole multiples of scales."""

    weight: np.ndarray
    """[in, out] float32"""
    scales: np.ndarray
    """[blocks along the input, out] float32: step of the grid of each block."""


def quantise_gptq(model: nn.Layer, rows: List[np.ndarray], bits: int, block: int) -> Dict[str, GridWeight]:
    """Quantise the linear layers of every decoder layer, in place, layer after layer: each is calibrated on what the
    quantised ones before it give.

    Args:
        rows: token ids [T] of the calibration samples.
        bits: 4 or 8.
        block: weights along the input that share a scale; 0 for all of an output's.

    Returns:
        path -> its weight and scales. A layer that no row reached (an expert that was never chosen) is not among them.
    """
    found: Dict[str, GridWeight] = {}
    collectors: Dict[str, _Collector] = {}

    def watch(path: str, x: Tensor) -> None:
        collectors.setdefault(path, _Collector(int(x.shape[-1]))).add(x)

    def treat(_: str, linears: Dict[str, nn.Layer]) -> None:
        for path, layer in linears.items():
            if path in collectors:
                found[path] = collectors.pop(path).quantise(layer, bits, block)
                layer.weight.set_value(paddle.to_tensor(found[path].weight).astype(layer.weight.dtype))

    walk_layers(model, rows, watch, treat)
    return found


class _Collector:
    """The inputs of one linear layer, as PaddleSlim sums them up: X^T X."""

    def __init__(self, size: int) -> None:
        self._inputs = GPTQ(nn.Linear(size + 1, 1, bias_attr=False), quant_bits=8)  # any width: only inputs are summed

    def add(self, x: Tensor) -> None:
        """x [..., in]."""
        flat = x.reshape([1, -1, x.shape[-1]]).astype("float32")
        self._inputs(paddle.concat([flat, paddle.zeros([*flat.shape[:-1], 1])], axis=-1))

    def quantise(self, layer: nn.Layer, bits: int, block: int) -> GridWeight:
        size, width = features(layer)
        weight = layer.weight.astype("float32")
        wide = nn.Linear(size + 1, width, bias_attr=False)
        wide.weight.set_value(paddle.concat([weight, paddle.zeros([1, width])]))
        one = GPTQ(wide, quant_bits=bits)
        one.hessian = self._inputs.hessian
        with _noted_scales() as scales, redirect_stdout(io.StringIO()):
            # without blocks the inputs are taken in the order of their weight; with them, block after block, each with
            # the scale of what is left of it then
            one.fasterquant(blocksize=block or 128, groupsize=block or -1, actorder=not block)
        num_blocks = -(-size // block) if block else 1
        kept = scales[1 : 1 + num_blocks] if block else scales[:1]
        steps = np.stack([scale.numpy() for scale in kept]) / one.quant_bits
        return GridWeight(wide.weight.numpy()[:size], steps.astype("float32"))


@contextmanager
def _noted_scales() -> Iterator[List[Any]]:
    """What `compute_scales` gives inside a `with`: largest magnitudes [out], first of the whole, then of each block."""
    found: List[Any] = []
    compute = _module.compute_scales

    def note(*args: Any, **kwargs: Any) -> Any:
        found.append(compute(*args, **kwargs).clone())
        return found[-1].clone()

    _module.compute_scales = note
    try:
        yield found
    finally:
        _module.compute_scales = compute
