"""The compiled way from codes to weights; `quant.codec` has the same of Paddle's operators, equal bit for bit."""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.operators.build import load_operators


def dequantise_compiled(
    codes: Tensor, levels: np.ndarray, scales: Tensor, shape: List[int], block: int
) -> Optional[Tensor]:
    """Weights of a shape in float32, or None where there are no compiled operators.

    Args:
        codes: uint8, two weights in a byte if there are 16 levels, one if there are 256.
        scales: float32, one for every `block` weights.
    """
    operators = load_operators()
    if operators is None:
        return None
    weights = paddle.empty(shape, dtype="float32")
    if len(levels) == 16:
        pointers = (codes.data_ptr(), levels.ctypes.data, scales.data_ptr(), weights.data_ptr())
        operators.dequantise4(*pointers, weights.size, block)
    else:
        operators.dequantise8(codes.data_ptr(), scales.data_ptr(), weights.data_ptr(), weights.size, block)
    return weights
