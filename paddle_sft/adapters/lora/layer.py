"""LoRA's update of one linear layer."""

from __future__ import annotations

import math

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import Delta
from paddle_sft.adapters.lora.config import LoRAConfig


class LoRADelta(Delta):
    """delta(x) = scaling * (dropout(x) A) B.

    Shapes: x [..., in], A [in, rank], B [rank, out]. B starts at zero, so training starts from the base model's
    outputs; A is uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), the reference implementation's choice).
    """

    def __init__(self, in_features: int, out_features: int, config: LoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.scaling = config.scaling
        self.dropout = config.lora_dropout
        bound = 1.0 / math.sqrt(in_features)
        self.lora_a = self.create_parameter(
            [in_features, config.lora_rank], dtype=dtype, default_initializer=nn.initializer.Uniform(-bound, bound)
        )
        self.lora_b = self.create_parameter(
            [config.lora_rank, out_features], dtype=dtype, default_initializer=nn.initializer.Constant(0.0)
        )

    def delta(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        # scaling on the [..., rank] product: a fraction of the work it would be on [..., out]
        return (x @ self.lora_a * self.scaling) @ self.lora_b

    def delta_weight(self) -> Tensor:
        """float32 [in, out]; float32 because bfloat16 would round the update away on merge."""
        return self.scaling * (self.lora_a.astype("float32") @ self.lora_b.astype("float32"))

    @staticmethod
    def count(in_features: int, out_features: int, config: LoRAConfig) -> int:
        return config.lora_rank * (in_features + out_features)
