"""OFT's update of one linear layer."""

from __future__ import annotations

from typing import Dict

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Update
from paddle_sft.adapters.oft.config import OFTConfig
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import LowRank


class OFTUpdate(Update):
    """y = base(x R), R block-diagonal and orthogonal: Cayley's transform of skew blocks S.

    Shapes: x [..., in], R as blocks [in / b, b, b], oft_r [in / b, b (b - 1) / 2] (what is above the diagonal of S). It
    starts at zero, so R at the identity. R = I + 2 S + 2 S^2 + 2 S^3 + S^4 with 5 terms, the begin of the series of
    (I + S) (I - S)^-1, orthogonal as far as S is small; without a series (I - S) (I + S)^-1, which turns the other way.
    Both are PEFT's, so that folders keep their meaning.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: OFTConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.block = config.block_size(in_features)
        self.terms = config.oft_neumann_terms
        shape = [in_features // self.block, self.block * (self.block - 1) // 2]
        self.oft_r = self.create_parameter(shape, dtype=dtype, default_initializer=nn.initializer.Constant(0.0))
        self._places = _places(self.block)

    def rotation(self) -> Tensor:
        """R as float32 blocks [in / b, b, b]."""
        vector = self.oft_r.astype("float32")
        ends = paddle.concat([vector, -vector, paddle.zeros([vector.shape[0], 1])], axis=1)
        skew = ends.index_select(paddle.to_tensor(self._places), axis=1).reshape([-1, self.block, self.block])
        one = paddle.eye(self.block)
        if self.terms == 0:
            return paddle.linalg.solve(one + skew, one - skew)
        power, rotation = skew, one + 2.0 * skew
        for _ in range(2, self.terms - 1):
            power = power @ skew
            rotation = rotation + 2.0 * power
        return rotation + power @ skew

    def forward(self, x: Tensor, base: nn.Layer) -> Tensor:
        blocks = x.reshape([-1, self.oft_r.shape[0], self.block]).transpose([1, 0, 2])
        turned = blocks @ self.rotation().astype(x.dtype)
        return base(turned.transpose([1, 0, 2]).reshape(x.shape))

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        if low_rank.is_by_columns:
            return {}
        if not low_rank.cuts_between(self.block):
            raise ArgumentError(
                f"adapter oft turns inputs in blocks of {self.block}, and tensor parallelism cuts one of a layer with "
                f"{self.in_features} inputs in two; choose an oft_block_size that divides what a rank has of them"
            )
        return {"oft_r": 0}

    def merged_weight(self, weight: Tensor) -> Tensor:
        rows = weight.reshape([self.in_features // self.block, self.block, self.out_features])
        return (self.rotation() @ rows).reshape([self.in_features, self.out_features])

    @staticmethod
    def count(in_features: int, out_features: int, config: OFTConfig) -> int:
        return in_features * (config.block_size(in_features) - 1) // 2


def _places(block: int) -> np.ndarray:
    """For each number of a skew matrix [b * b]: where it stands in (above the diagonal, the same negated, zero)."""
    num = block * (block - 1) // 2
    places = np.full((block, block), 2 * num)
    above = np.triu_indices(block, 1)
    places[above] = np.arange(num)
    places[above[1], above[0]] = num + np.arange(num)
    return places.reshape(-1)
