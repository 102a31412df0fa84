"""LoRA with another matrix between its factors, with none, and with one factor frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, WITH_WHOLE_LAYERS, AdapterConfig, Delta
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.lora.layer import LoRADelta
from paddle_sft.core.errors import ArgumentError


class MosLoRADelta(LoRADelta):
    """delta(x) = scaling * x A M B, M [r, r] trained (Wu et al. 2024, https://arxiv.org/abs/2406.11909, equation 7).

    M starts as a random orthogonal matrix, one of the paper's two starts that train well: lengths stay as they are.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: LoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.lora_mixer = self.create_parameter(
            [config.lora_rank, config.lora_rank], dtype=dtype, default_initializer=nn.initializer.Orthogonal()
        )

    def delta(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        low = x @ self.lora_a * self.scaling
        if self.low_rank is None:
            return low @ self.lora_mixer @ self.lora_b
        if self.low_rank.is_by_columns:
            return self.low_rank.between(low @ self.lora_mixer) @ self.lora_b
        return self.low_rank.between(low) @ self.lora_mixer @ self.lora_b

    def delta_weight(self) -> Tensor:
        a, mixer, b = (one.astype("float32") for one in (self.lora_a, self.lora_mixer, self.lora_b))
        return self.scaling * (a @ mixer @ b)

    @staticmethod
    def count(in_features: int, out_features: int, config: LoRAConfig) -> int:
        return LoRADelta.count(in_features, out_features, config) + config.lora_rank**2


@dataclass(frozen=True)
class LoRAFAConfig(LoRAConfig):
    """LoRA-FA's numbers (Zhang et al. 2023, https://arxiv.org/abs/2308.03303)."""

    has_own_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_plus_scale != 1.0:
            raise ArgumentError(
                "lora_plus_scale is a ratio of two learning rates, and adapter lora_fa trains B alone; leave it out"
            )


class LoRAFADelta(LoRADelta):
    """LoRA whose A stays at its random start: an update then lies in r directions of the input that are drawn once."""

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: LoRAFAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.lora_a.stop_gradient = True

    @staticmethod
    def count(in_features: int, out_features: int, config: LoRAConfig) -> int:
        return config.lora_rank * out_features


@dataclass(frozen=True)
class MoRAConfig(AdapterConfig):
    """MoRA's numbers (Jiang et al. 2024, https://arxiv.org/abs/2405.12130)."""

    lora_rank: int = 8
    """The square matrix has as many numbers as LoRA of this rank would train."""
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise ArgumentError(f"lora_rank must be at least 1, got {self.lora_rank}")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ArgumentError(f"lora_dropout must be at least 0 and below 1, got {self.lora_dropout}")

    def size(self, in_features: int, out_features: int) -> int:
        """R of the square matrix: sqrt((in + out) * rank), rounded, and even, for numbers are rotated in pairs."""
        return max(2, int(math.sqrt((in_features + out_features) * self.lora_rank) + 0.5) // 2 * 2)


class MoRADelta(Delta):
    """delta(x) = decompress(compress(x) M), M [R, R] trained, zero at first (the paper's section 4.2, with rotation).

    compress cuts x into groups of R numbers, the last one filled from x's begin, and rotates group i as rotary position
    embedding rotates position i (equation 9), so that M tells the groups apart. decompress writes the groups' outputs
    one after the other, cut to `out`, or repeated up to it. There is no alpha.
    """

    splits = WITH_WHOLE_LAYERS
    why_not_split = "its square matrix reads groups of inputs that lie across the parts of a layer"

    def __init__(self, in_features: int, out_features: int, config: MoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.dropout = config.lora_dropout
        self.size = config.size(in_features, out_features)
        self.mora = self.create_parameter(
            [self.size, self.size], dtype=dtype, default_initializer=nn.initializer.Constant(0.0)
        )
        all_groups = -(-in_features // self.size)
        self.filled = all_groups * self.size - in_features
        self.groups = min(all_groups, -(-out_features // self.size))  # what is cut off the output is not computed
        self.register_buffer("rotation", self._rotation(dtype), persistable=False)

    def _rotation(self, dtype: str) -> Tensor:
        """Cosines and sines [2, groups, R]."""
        frequencies = 10000.0 ** (-paddle.arange(0, self.size, 2, dtype="float32") / self.size)
        angles = paddle.outer(paddle.arange(self.groups, dtype="float32"), frequencies)
        angles = paddle.concat([angles, angles], axis=-1)
        return paddle.stack([angles.cos(), angles.sin()]).astype(dtype)

    def compress(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., groups, R]."""
        while x.shape[-1] < self.in_features + self.filled:  # a layer narrower than R is repeated
            x = paddle.concat([x, x[..., : self.in_features + self.filled - x.shape[-1]]], axis=-1)
        x = x.reshape([*x.shape[:-1], -1, self.size])[..., : self.groups, :]
        half = self.size // 2
        turned = paddle.concat([-x[..., half:], x[..., :half]], axis=-1)
        return x * self.rotation[0] + turned * self.rotation[1]

    def decompress(self, y: Tensor) -> Tensor:
        """[..., groups, R] -> [..., out]."""
        y = y.reshape([*y.shape[:-2], -1])
        times = -(-self.out_features // y.shape[-1])
        return (paddle.concat([y] * times, axis=-1) if times > 1 else y)[..., : self.out_features]

    def delta(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        return self.decompress(self.compress(x) @ self.mora)

    @paddle.no_grad()
    def delta_weight(self) -> Tensor:
        one = self.compress(paddle.eye(self.in_features, dtype=self.mora.dtype)).astype("float32")
        return self.decompress(one @ self.mora.astype("float32"))

    @staticmethod
    def count(in_features: int, out_features: int, config: Any) -> int:
        return config.size(in_features, out_features) ** 2
