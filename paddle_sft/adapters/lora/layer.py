"""LoRA's update of one linear layer."""

from __future__ import annotations

import math
from typing import Dict, Optional, Tuple

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Delta, Update
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.lora.singular import factors_of_rest
from paddle_sft.models.linears import LowRank


def add_factors(update: Update, config: LoRAConfig, dtype: str) -> None:
    """Give an update A, B and `scaling`; B learns at lora_plus_scale times the learning rate."""
    update.scaling = config.scaling
    bound = 1.0 / math.sqrt(update.in_features)
    update.lora_a = update.create_parameter(
        [update.in_features, config.lora_rank], dtype=dtype, default_initializer=nn.initializer.Uniform(-bound, bound)
    )
    update.lora_b = update.create_parameter(
        [config.lora_rank, update.out_features], dtype=dtype, default_initializer=nn.initializer.Constant(0.0)
    )
    update.lora_b.optimize_attr["learning_rate"] = config.lora_plus_scale


class LoRADelta(Delta):
    """delta(x) = scaling * (dropout(x) A) B.

    Shapes: x [..., in], A [in, rank], B [rank, out]. B starts at zero, so training starts from the base model's
    outputs; A is uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), the reference implementation's choice).
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: LoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.dropout = config.lora_dropout
        self.loftq = config.loftq
        add_factors(self, config, dtype)

    def factors(self) -> Optional[Tuple[Tensor, Tensor, float]]:
        is_plain = type(self).delta is LoRADelta.delta and type(self).forward is Delta.forward
        if not is_plain or self.low_rank is not None or (self.dropout and self.training):
            return None
        return self.lora_a, self.lora_b, self.scaling

    def start(self, base: nn.Layer) -> None:
        if self.loftq:
            for mine, found in zip(
                (self.lora_a, self.lora_b), factors_of_rest(base, self.lora_a.shape[1], self.scaling)
            ):
                mine.set_value(found.astype(mine.dtype))

    def delta(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        if self.low_rank is not None:
            return self.low_rank.between(x @ self.lora_a * self.scaling) @ self.lora_b
        # scaling on the [..., rank] product: a fraction of the work it would be on [..., out]
        return (x @ self.lora_a * self.scaling) @ self.lora_b

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"lora_b": 1} if low_rank.is_by_columns else {"lora_a": 0}

    def delta_weight(self) -> Tensor:
        """float32 [in, out]; float32 because bfloat16 would round the update away on merge."""
        return self.scaling * (self.lora_a.astype("float32") @ self.lora_b.astype("float32"))

    @staticmethod
    def count(in_features: int, out_features: int, config: LoRAConfig) -> int:
        return config.lora_rank * (in_features + out_features)
