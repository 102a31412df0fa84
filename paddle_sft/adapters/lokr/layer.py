"""LoKr's update of one linear layer."""

from __future__ import annotations

import math
from typing import List

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import WITH_WHOLE_LAYERS, Delta
from paddle_sft.adapters.lokr.config import LoKrConfig


class LoKrDelta(Delta):
    """delta(x) = scaling * x (W1 (x) W2), a Kronecker product that is never formed while training.

    Shapes: x [..., in], W1 [small in, small out], W2 [large in, large out]; a factor that is a product is b a, with
    b [in, rank] and a [rank, out]. W1 (or its a) starts at zero, the rest is uniform in +-1/sqrt(in of the factor).
    """

    splits = WITH_WHOLE_LAYERS
    why_not_split = "its factors belong to the sides of a whole layer"

    def __init__(self, in_features: int, out_features: int, config: LoKrConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.scaling = config.scaling
        self.cut = cut = config.parts(in_features, out_features)
        rank = config.lokr_rank
        if cut.is_small_whole:
            self.lokr_w1 = self._weight([cut.small_in, cut.small_out], 0.0, dtype)
        else:
            self.lokr_w1_a = self._weight([rank, cut.small_out], 0.0, dtype)
            self.lokr_w1_b = self._weight([cut.small_in, rank], 1.0 / math.sqrt(cut.small_in), dtype)
        if cut.is_large_whole:
            self.lokr_w2 = self._weight([cut.large_in, cut.large_out], 1.0 / math.sqrt(cut.large_in), dtype)
        else:
            self.lokr_w2_a = self._weight([rank, cut.large_out], 1.0 / math.sqrt(rank), dtype)
            self.lokr_w2_b = self._weight([cut.large_in, rank], 1.0 / math.sqrt(cut.large_in), dtype)

    def _weight(self, shape: List[int], bound: float, dtype: str) -> Tensor:
        start = nn.initializer.Uniform(-bound, bound) if bound else nn.initializer.Constant(0.0)
        return self.create_parameter(shape, dtype=dtype, default_initializer=start)

    def _small(self) -> Tensor:
        return self.lokr_w1 if self.cut.is_small_whole else self.lokr_w1_b @ self.lokr_w1_a

    def delta(self, x: Tensor) -> Tensor:
        cut, lead = self.cut, x.shape[:-1]
        blocks = x.reshape([*lead, cut.small_in, cut.large_in])
        large = blocks @ self.lokr_w2 if cut.is_large_whole else (blocks @ self.lokr_w2_b) @ self.lokr_w2_a
        small = (self._small() * self.scaling).transpose([1, 0])
        return (small @ large).reshape([*lead, self.out_features])

    def delta_weight(self) -> Tensor:
        w1 = self._small().astype("float32")
        w2 = (
            self.lokr_w2
            if self.cut.is_large_whole
            else self.lokr_w2_b.astype("float32") @ self.lokr_w2_a.astype("float32")
        )
        return paddle.kron(w1 * self.scaling, w2.astype("float32"))

    @staticmethod
    def count(in_features: int, out_features: int, config: LoKrConfig) -> int:
        cut, rank = config.parts(in_features, out_features), config.lokr_rank
        small = cut.small_in * cut.small_out if cut.is_small_whole else rank * (cut.small_in + cut.small_out)
        large = cut.large_in * cut.large_out if cut.is_large_whole else rank * (cut.large_in + cut.large_out)
        return small + large
