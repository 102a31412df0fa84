"""AdaLoRA's update of one linear layer."""

from __future__ import annotations

import math
from typing import Dict

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.adalora.config import AdaLoRAConfig
from paddle_sft.adapters.base import Delta
from paddle_sft.models.linears import LowRank
from paddle_sft.models.split import part_of

NAMES = ("lora_a", "lora_e", "lora_b")


class AdaLoRADelta(Delta):
    """delta(x) = scaling * (dropout(x) A * e) B: a singular value decomposition, with P = A and Q = B of the paper.

    Shapes: x [..., in], A [in, init_r], e [init_r], B [init_r, out]. e starts at zero. A cut sets numbers of e to zero.

    The columns of A and the rows of B start with length 1 on average, nearly orthogonal, as the penalty wants them.
    The paper and PEFT start them at a standard deviation of 0.02: then e moves the layer by a tenth of that or less,
    and short runs learn little.
    """

    splits = ("tensor", "sequence", "pipeline", "sep")
    why_not_split = "it weighs whole gradients of all layers against one another on every rank"

    def __init__(self, in_features: int, out_features: int, config: AdaLoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.scaling = config.scaling
        self.dropout = config.lora_dropout
        rank = config.adalora_init_r
        columns, rows = (nn.initializer.Normal(0.0, 1.0 / math.sqrt(size)) for size in (in_features, out_features))
        self.lora_a = self.create_parameter([in_features, rank], dtype=dtype, default_initializer=columns)
        self.lora_e = self.create_parameter([rank], dtype=dtype, default_initializer=nn.initializer.Constant(0.0))
        self.lora_b = self.create_parameter([rank, out_features], dtype=dtype, default_initializer=rows)
        self.averages: Dict[str, Tensor] = {}
        """While training, float32: averages of sensitivity and uncertainty (adapters.adalora.budget)."""
        self.keeps: Dict[str, Tensor] = {}
        """After the last cut: which numbers of e are left."""

    def delta(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        singular = self.lora_e * self.scaling
        if self.low_rank is None:
            return (x @ self.lora_a * singular) @ self.lora_b
        if self.low_rank.is_by_columns:
            return self.low_rank.between(x @ self.lora_a * singular) @ self.lora_b
        return (self.low_rank.between(x @ self.lora_a) * singular) @ self.lora_b

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"lora_b": 1} if low_rank.is_by_columns else {"lora_a": 0}

    def whole_sum(self, name: str, found: Tensor) -> Tensor:
        """Of a sum over the numbers of a parameter that are here, that over all of them. Ranks with parts of the layer
        call it together."""
        return found if part_of(getattr(self, name)) is None else self.low_rank.sum(found)

    def delta_weight(self) -> Tensor:
        a, e, b = (getattr(self, name).astype("float32") for name in NAMES)
        return (a * (e * self.scaling)) @ b

    @staticmethod
    def count(in_features: int, out_features: int, config: AdaLoRAConfig) -> int:
        return config.adalora_init_r * (in_features + out_features + 1)
