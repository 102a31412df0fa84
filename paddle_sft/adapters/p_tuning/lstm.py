"""A bidirectional LSTM over one short sequence.

Paddle 3.3.1's own can't be made under a LazyGuard, which is how an adapter's folder is checked.
"""

from __future__ import annotations

import math
from typing import List, Tuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


class Direction(nn.Layer):
    """One LSTM, forwards (Hochreiter and Schmidhuber 1997). Shapes: x [P, in] -> [P, size]; the gates lie as PyTorch's
    do: input, forget, new, output."""

    def __init__(self, in_features: int, size: int, dtype: str) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(size)
        drawn = nn.initializer.Uniform(-bound, bound)
        shapes = {"weight_ih": [in_features, 4 * size], "weight_hh": [size, 4 * size]}
        for name, shape in {**shapes, "bias_ih": [4 * size], "bias_hh": [4 * size]}.items():
            setattr(self, name, self.create_parameter(shape, dtype=dtype, default_initializer=drawn))

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight_hh.shape[0]
        read = x @ self.weight_ih + self.bias_ih + self.bias_hh
        hidden = cell = paddle.zeros([1, size], dtype=x.dtype)
        found: List[Tensor] = []
        for step in paddle.split(read, len(x)):
            let_in, forget, new, let_out = paddle.split(step + hidden @ self.weight_hh, 4, axis=1)
            cell = F.sigmoid(forget) * cell + F.sigmoid(let_in) * paddle.tanh(new)
            hidden = F.sigmoid(let_out) * paddle.tanh(cell)
            found.append(hidden)
        return paddle.concat(found)


class BiLSTM(nn.Layer):
    """Layers of two directions each, with dropout between the layers. x [P, in] -> [P, 2 size]."""

    def __init__(self, in_features: int, size: int, num_layers: int, dropout: float, dtype: str) -> None:
        super().__init__()
        widths = [in_features] + [2 * size] * (num_layers - 1)
        self.forwards = nn.LayerList([Direction(width, size, dtype) for width in widths])
        self.backwards = nn.LayerList([Direction(width, size, dtype) for width in widths])
        self._dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        for number, pair in enumerate(self._pairs()):
            x = F.dropout(x, self._dropout, training=self.training) if number else x
            x = paddle.concat([pair[0](x), pair[1](x.flip(0)).flip(0)], axis=1)
        return x

    def _pairs(self) -> List[Tuple[nn.Layer, nn.Layer]]:
        return list(zip(self.forwards, self.backwards))
