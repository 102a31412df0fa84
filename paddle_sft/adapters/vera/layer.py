"""VeRA's update of one linear layer, and the matrices that all layers share."""

from __future__ import annotations

import math
from typing import Any, Dict, Tuple

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, Delta, ModelFacts, ModelUpdate
from paddle_sft.adapters.vera.config import VeRAConfig
from paddle_sft.models.linears import LowRank


class VeRADelta(Delta):
    """delta(x) = (dropout(x) A * d) B * b, with A and B random, frozen and shared by all layers.

    Shapes: x [..., in], A [in, rank], d [rank], B [rank, out], b [out]. b starts at zero.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: VeRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.dropout = config.lora_dropout
        start, zero = nn.initializer.Constant(config.vera_d_initial), nn.initializer.Constant(0.0)
        self.lambda_d = self.create_parameter([config.vera_rank], dtype=dtype, default_initializer=start)
        self.lambda_b = self.create_parameter([out_features], dtype=dtype, default_initializer=zero)
        self.shared: Tuple[VeRAMatrices, ...] = ()
        """One: in a tuple, because a layer kept as it is would be saved with every update."""

    def _matrices(self) -> Tuple[Tensor, Tensor]:
        """This layer's part of A [in, rank] and B [rank, out]."""
        return self.shared[0].vera_a[: self.in_features], self.shared[0].vera_b[:, : self.out_features]

    def delta(self, x: Tensor) -> Tensor:
        a, b = self._matrices()
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        if self.low_rank is not None:
            return self._split_delta(x, a, b)
        return ((x @ a) * self.lambda_d) @ b * self.lambda_b

    def _split_delta(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The same beside a layer of which this rank has a part."""
        if self.low_rank.is_by_columns:
            return self.low_rank.between((x @ a) * self.lambda_d) @ self.low_rank.take(b, 1) * self.lambda_b
        return (self.low_rank.between(x @ self.low_rank.take(a, 0)) * self.lambda_d) @ b * self.lambda_b

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"lambda_b": 0} if low_rank.is_by_columns else {}

    def delta_weight(self) -> Tensor:
        a, b = (matrix.astype("float32") for matrix in self._matrices())
        return (a * self.lambda_d.astype("float32")) @ b * self.lambda_b.astype("float32")

    @staticmethod
    def count(in_features: int, out_features: int, config: VeRAConfig) -> int:
        return config.vera_rank + out_features


class VeRAMatrices(ModelUpdate):
    """A [largest in, rank] and B [rank, largest out], one pair for all layers.

    Uniform in +-sqrt(6 / in) and +-sqrt(6 / rank) (Kaiming, as in the paper and in PEFT), drawn from the run's seed.
    They are saved: a seed gives the same numbers only with the same version of the same library.
    """

    starts_at_zero = True
    splits = EVERY_SPLIT

    def __init__(self, facts: ModelFacts, config: Any, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        rank, rows, columns = config.vera_rank, config.largest_in, config.largest_out
        self.vera_a = self._random([rows, rank], math.sqrt(6.0 / rows), dtype)
        self.vera_b = self._random([rank, columns], math.sqrt(6.0 / rank), dtype)

    def _random(self, shape: list, bound: float, dtype: str) -> Tensor:
        drawn = nn.initializer.Uniform(-bound, bound)
        parameter = self.create_parameter(shape, dtype=dtype, default_initializer=drawn)
        parameter.stop_gradient = True
        return parameter

    def share(self, update: VeRADelta) -> None:
        update.shared = (self,)

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        return 0
