"""The activation functions that a config.json may name, as transformers computes them."""

from __future__ import annotations

from functools import partial
from typing import Callable, Dict

import paddle.nn.functional as F
from paddle import Tensor

_tanh_gelu = partial(F.gelu, approximate=True)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * F.sigmoid(1.702 * x)


ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": F.tanh,
}
"""`models.family.ACTIVATION_NAMES` lists the names for code that must not import paddle."""
