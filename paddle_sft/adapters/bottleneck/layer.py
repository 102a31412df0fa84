"""The bottleneck adapter behind one linear layer."""

from __future__ import annotations

import math
from typing import Dict

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Update
from paddle_sft.adapters.bottleneck.config import BottleneckConfig
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import LowRank


class BottleneckUpdate(Update):
    """y = h + activation(h D + d) U + u with h = base(x): behind the last layer of a sub-layer, before its residual is
    added.

    Shapes: h [..., out], D [out, m], d [m], U [m, out], u [out]. U and u start at zero, D is uniform in +-1/sqrt(out).
    """

    splits = EVERY_SPLIT
    why_not_merge = (
        "what it adds goes through an activation, and no matrix does that; give the adapter to paddle-sft generate "
        "(--lora_path), or train a method that can be merged, such as lora"
    )

    def __init__(self, in_features: int, out_features: int, config: BottleneckConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.activation = getattr(F, config.bottleneck_activation)
        bound, size = 1.0 / math.sqrt(out_features), config.bottleneck_size
        drawn, zero = nn.initializer.Uniform(-bound, bound), nn.initializer.Constant(0.0)
        self.down_weight = self.create_parameter([out_features, size], dtype=dtype, default_initializer=drawn)
        self.down_bias = self.create_parameter([size], dtype=dtype, default_initializer=zero)
        self.up_weight = self.create_parameter([size, out_features], dtype=dtype, default_initializer=zero)
        self.up_bias = self.create_parameter([out_features], dtype=dtype, default_initializer=zero)

    def forward(self, x: Tensor, base: nn.Layer) -> Tensor:
        h = base(x)
        return h + (self.activation(h @ self.down_weight + self.down_bias) @ self.up_weight + self.up_bias)

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        if low_rank.is_by_columns:
            raise ArgumentError(
                "adapter bottleneck reads the whole output of a layer, and under tensor parallelism each rank has some "
                "columns of it; leave lora_target_modules out, which adapts the last layers of attention and MLP"
            )
        return {}

    @staticmethod
    def count(in_features: int, out_features: int, config: BottleneckConfig) -> int:
        return 2 * out_features * config.bottleneck_size + config.bottleneck_size + out_features
