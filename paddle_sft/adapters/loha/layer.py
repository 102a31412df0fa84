"""LoHa's update of one linear layer."""

from __future__ import annotations

import math
from typing import Dict, List

from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Delta
from paddle_sft.adapters.loha.config import LoHaConfig
from paddle_sft.models.linears import LowRank


class LoHaDelta(Delta):
    """delta(x) = scaling * x ((B1 A1) * (B2 A2)), the product * number by number.

    Shapes: x [..., in], B1 and B2 [in, rank], A1 and A2 [rank, out] (hada_w1_b, hada_w1_a and so on, as PEFT calls
    their transposes). B2 starts at zero, the others are uniform in +-1/sqrt(in) and +-1/sqrt(rank).

    The matrix [in, out] is never formed while training: it is a product of inner size rank * rank, of the rows'
    Khatri-Rao products. That takes rank^2 (in + out) multiplications a token, and memory for rank^2 numbers a token,
    where the matrix takes in * out of both.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: LoHaConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.scaling = config.scaling
        rank, by_in = config.loha_rank, 1.0 / math.sqrt(in_features)
        by_rank = 1.0 / math.sqrt(rank)
        self.hada_w1_a = self._weight([rank, out_features], by_rank, dtype)
        self.hada_w1_b = self._weight([in_features, rank], by_in, dtype)
        self.hada_w2_a = self._weight([rank, out_features], by_rank, dtype)
        self.hada_w2_b = self._weight([in_features, rank], 0.0, dtype)

    def _weight(self, shape: List[int], bound: float, dtype: str) -> Tensor:
        start = nn.initializer.Uniform(-bound, bound) if bound else nn.initializer.Constant(0.0)
        return self.create_parameter(shape, dtype=dtype, default_initializer=start)

    def delta(self, x: Tensor) -> Tensor:
        squared = self.hada_w1_a.shape[0] ** 2
        down = (self.hada_w1_b.unsqueeze(2) * self.hada_w2_b.unsqueeze(1)).reshape([-1, squared])
        up = (self.hada_w1_a.unsqueeze(1) * self.hada_w2_a.unsqueeze(0)).reshape([squared, -1])
        low = x @ down * self.scaling
        return (low if self.low_rank is None else self.low_rank.between(low)) @ up

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"hada_w1_a": 1, "hada_w2_a": 1} if low_rank.is_by_columns else {"hada_w1_b": 0, "hada_w2_b": 0}

    def delta_weight(self) -> Tensor:
        b1, a1, b2, a2 = (
            one.astype("float32") for one in (self.hada_w1_b, self.hada_w1_a, self.hada_w2_b, self.hada_w2_a)
        )
        return self.scaling * (b1 @ a1) * (b2 @ a2)

    @staticmethod
    def count(in_features: int, out_features: int, config: LoHaConfig) -> int:
        return 2 * config.loha_rank * (in_features + out_features)
