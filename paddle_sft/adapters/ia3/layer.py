"""IA3's update of one linear layer."""

from __future__ import annotations

from typing import Dict, Optional

from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Update
from paddle_sft.adapters.ia3.config import IA3Config
from paddle_sft.models.linears import LowRank


class IA3Update(Update):
    """y = base(x) * l, or y = base(x * l) for the last layer of a feed-forward network: the paper scales keys, values
    and what is between the two halves of that network.

    Shapes: x [..., in], y [..., out], l [out] or [in]. l starts at one.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: IA3Config, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.scales_input = config.scales_input
        size, one = in_features if config.scales_input else out_features, nn.initializer.Constant(1.0)
        self.ia3_l = self.create_parameter([size], dtype=dtype, default_initializer=one)

    def forward(self, x: Tensor, base: nn.Layer) -> Tensor:
        return base(x * self.ia3_l) if self.scales_input else base(x) * self.ia3_l

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"ia3_l": 0} if low_rank.is_by_columns != self.scales_input else {}

    def merged_weight(self, weight: Tensor) -> Tensor:
        scale = self.ia3_l.astype("float32")
        return weight * (scale.unsqueeze(1) if self.scales_input else scale)

    def merged_bias(self, bias: Optional[Tensor]) -> Optional[Tensor]:
        if bias is None or self.scales_input:
            return bias
        return bias * self.ia3_l.astype("float32")

    @staticmethod
    def count(in_features: int, out_features: int, config: IA3Config) -> int:
        return in_features if config.scales_input else out_features
