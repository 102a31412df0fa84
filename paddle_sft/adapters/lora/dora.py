"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, https://arxiv.org/abs/2402.09353)."""

from __future__ import annotations

from typing import Any, Dict

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Update
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.lora.layer import add_factors
from paddle_sft.models.linears import LowRank, bias_of, part_product, product, weight_matrix

_LEAST = 1e-30
"""Under the root of a column's length: rounding may take a column that an update has wiped out below 0."""


class DoRAUpdate(Update):
    """y = (x W + scaling * (dropout(x) A) B) * magnitude / |W + scaling * A B| + b.

    |.| is the length of each column, one an output feature, taken as a constant by the gradient (the paper's section
    4.3). magnitude [out] starts at |W|, B at zero. The lengths come from products with r rows, so that no matrix
    [in, out] is made in a step: |W + s AB|^2 = |W|^2 + 2 s sum(B * A'W) + s^2 sum(B * A'A B), summed over the rank.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: LoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.dropout = config.lora_dropout
        add_factors(self, config, dtype)
        self.magnitude = self.create_parameter(
            [out_features], dtype=dtype, default_initializer=nn.initializer.Constant(1.0)
        )
        self.register_buffer("base_squares", None, persistable=False)

    def start(self, base: nn.Layer) -> None:
        self.magnitude.set_value(self._base_squares(base).sqrt().astype(self.magnitude.dtype))

    def forward(self, x: Tensor, base: nn.Layer) -> Tensor:
        kept = F.dropout(x, self.dropout) if self.dropout and self.training else x
        low = kept @ self.lora_a * self.scaling
        low = low if self.low_rank is None else self.low_rank.between(low)
        output = product(base, x) + low @ self.lora_b
        output = output * (self.magnitude / self._lengths(base).astype(self.magnitude.dtype))
        bias = bias_of(base)
        return output if bias is None else output + bias

    @paddle.no_grad()
    def _lengths(self, base: nn.Layer) -> Tensor:
        """|W + scaling * A B| [out], float32."""
        a, b = self.lora_a.astype("float32"), self.lora_b.astype("float32")
        a_weight, a_a = part_product(base, self.lora_a.T).astype("float32"), a.T @ a
        if self.low_rank is not None and not self.low_rank.is_by_columns:
            a_weight, a_a = self.low_rank.sum(a_weight), self.low_rank.sum(a_a)
        cross = (b * a_weight).sum(0)
        own = (b * (a_a @ b)).sum(0)
        squares = self._base_squares(base) + 2.0 * self.scaling * cross + self.scaling**2 * own
        return squares.clip(min=_LEAST).sqrt()

    def _base_squares(self, base: nn.Layer) -> Tensor:
        """|W|^2 [out] of the frozen base: computed once, not saved."""
        if self.base_squares is None:
            squares = weight_matrix(base).square().sum(0)
            is_part = self.low_rank is not None and self.low_rank.is_by_columns
            self.base_squares = self.low_rank.take(squares, 0) if is_part else squares
        return self.base_squares

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        if low_rank.is_by_columns:
            known = {} if self.base_squares is None else {"base_squares": 0}
            return {"lora_b": 1, "magnitude": 0, **known}
        return {"lora_a": 0}

    def merged_weight(self, weight: Tensor) -> Tensor:
        whole = weight + self.scaling * (self.lora_a.astype("float32") @ self.lora_b.astype("float32"))
        return whole * (self.magnitude.astype("float32") / whole.square().sum(0).clip(min=_LEAST).sqrt())

    @staticmethod
    def count(in_features: int, out_features: int, config: Any) -> int:
        return config.lora_rank * (in_features + out_features) + out_features
