"""The word vectors of a model of which this rank may hold some rows, or none."""

from __future__ import annotations

import math

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddle_sft.models.split import part_of


class WordVectors:
    """The embedding's weight. Ranks that have parts of it call the methods together."""

    def __init__(self, model: nn.Layer) -> None:
        weight = model.get_input_embeddings().weight
        self.are_here = weight is not None
        """False on a stage of a pipeline that is without them."""
        self._weight = weight.detach() if self.are_here else None
        self._part = part_of(weight)
        self._group = model.share.tensor_group if self._part is not None else None
        self.num = model.whole_shapes[model.embedding_name][0] if hasattr(model, "whole_shapes") else weight.shape[0]

    def of(self, ids: Tensor) -> Tensor:
        """[N] -> [N, E]."""
        if self._part is None:
            return self._weight[ids]
        ((first, last),) = self._part.ranges
        is_mine = paddle.logical_and(ids >= first, ids < last)
        mine = self._weight[(ids - first).clip(0, last - first - 1)]
        return self._sum(paddle.where(is_mine.unsqueeze(1), mine, paddle.zeros_like(mine)))

    def spread(self) -> float:
        """Standard deviation of all numbers."""
        weight = self._weight.astype("float32")
        if self._part is None:
            return float(weight.std())
        count = math.prod(self._part.shape)
        mean = float(self._sum(weight.astype("float64").sum())) / count
        return math.sqrt(float(self._sum((weight.astype("float64") - mean).square().sum())) / (count - 1))

    def _sum(self, found: Tensor) -> Tensor:
        dist.all_reduce(found, group=self._group)
        return found
