"""BitFit's update of one linear layer."""

from __future__ import annotations

from typing import Dict, Optional

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Delta
from paddle_sft.adapters.bitfit.config import BitFitConfig
from paddle_sft.models.linears import LowRank


class BitFitDelta(Delta):
    """delta(x) = c: y = x W + (b + c), with b the base's frozen bias and c [out] trained from zero.

    The difference is trained instead of the bias itself, so that the base stays as it was and the adapter is as small
    as any. AdamW moves both alike, but for weight decay, which biases are spared.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: BitFitConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        zero = nn.initializer.Constant(0.0)
        self.bias_delta = self.create_parameter([out_features], dtype=dtype, default_initializer=zero)

    def delta(self, x: Tensor) -> Tensor:
        return self.bias_delta

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"bias_delta": 0} if low_rank.is_by_columns else {}

    def delta_weight(self) -> Tensor:
        return paddle.zeros([self.in_features, self.out_features])

    def merged_bias(self, bias: Optional[Tensor]) -> Optional[Tensor]:
        return bias + self.bias_delta.astype("float32")

    @staticmethod
    def count(in_features: int, out_features: int, config: BitFitConfig) -> int:
        return out_features
