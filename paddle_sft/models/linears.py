"""The kinds of linear layer that adapters can wrap, how to find them in a model, and what an adapter may ask of one.

A kind is a layer class that is called with x [..., in] and gives [..., out]. One that doesn't keep its matrix as
`weight` [in, out] has the methods `features`, `product`, `weight_matrix` and `compute_dtype` of its own.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.distributed import collective
from paddle.distributed.fleet.layers.mpu import mp_ops
from paddle.distributed.fleet.meta_parallel import ColumnParallelLinear, RowParallelLinear
from paddle.distributed.fleet.utils.sequence_parallel_utils import (
    AllGatherOp,
    ColumnSequenceParallelLinear,
    ReduceScatterOp,
    RowSequenceParallelLinear,
)

from paddle_sft.models.part_of import PartOf
from paddle_sft.quant.codec import Arrays
from paddle_sft.quant.linear import QuantisedLinear
from paddle_sft.quant.part import part_scheme, take_part
from paddle_sft.quant.scheme import Scheme

BY_COLUMNS = (ColumnParallelLinear, ColumnSequenceParallelLinear)
"""Each rank of tensor parallelism has some columns of the matrix, and gives these of the output."""
BY_ROWS = (RowParallelLinear, RowSequenceParallelLinear)
"""Each rank has some rows, and the same columns of the input; the outputs are added up."""
_OF_TOKENS = (ColumnSequenceParallelLinear, RowSequenceParallelLinear)
LINEAR_KINDS: Tuple[type, ...] = (nn.Linear, QuantisedLinear, *BY_COLUMNS, *BY_ROWS)


class QuantisedPart(QuantisedLinear):
    """In the place of a layer of which each rank has a part: the codes of this part (quant.part).

    Args:
        layer: it.
        arrays: of the whole weight.
        scheme: the same.
    """

    def __init__(self, layer: nn.Layer, arrays: Arrays, scheme: Scheme) -> None:
        part: PartOf = layer.weight.part
        cut = part.shape, part.axis, part.ranges
        kept = take_part(arrays, scheme, *cut)
        super().__init__(kept, part_scheme(scheme, *cut), *layer.weight.shape, compute_dtype(layer), layer.bias)
        self.part, self.whole_scheme = part, scheme
        self.kind, self.model_parallel_group = type(layer), layer.model_parallel_group

    def features(self) -> Tuple[int, int]:
        """Of the whole layer."""
        return self.part.shape

    def forward(self, x: Tensor) -> Tensor:
        output = product(self, x)
        return output if self.bias is None else output + self.bias.astype(output.dtype)


def find_linears(model: nn.Layer) -> Dict[str, nn.Layer]:
    """Path -> linear layer, for every layer an adapter can wrap, in the model's order.

    The LM head of PaddleNLP's families is a class of its own and never among them.
    """
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, LINEAR_KINDS)}


def features(layer: nn.Layer) -> Tuple[int, int]:
    """(in, out) of a linear layer; Paddle's weight is [in, out]."""
    if hasattr(layer, "features"):
        return layer.features()
    if hasattr(layer, "whole_size"):  # of which a rank may have a part, or nothing
        return layer.whole_size
    rows, columns = layer.weight.shape
    return int(rows), int(columns)


def product(layer: nn.Layer, x: Tensor) -> Tensor:
    """x W, without the bias. x [..., in] -> [..., out]; of a split layer what the layer reads and gives."""
    low_rank = low_rank_of(layer)
    if low_rank is None:
        return part_product(layer, x)
    if low_rank.is_by_columns:
        return part_product(layer, low_rank.between(x))
    return low_rank.between(part_product(layer, x))


def part_product(layer: nn.Layer, x: Tensor) -> Tensor:
    """x W of the part of W that this rank has, without a word to the others. x [..., rows] -> [..., columns]."""
    return layer.product(x) if hasattr(layer, "product") else x @ layer.weight


@paddle.no_grad()
def weight_matrix(layer: nn.Layer) -> Tensor:
    """W [in, out] in float32, without a gradient. Where each rank has a part, all of them call it and get the whole."""
    weight = layer.weight_matrix() if hasattr(layer, "weight_matrix") else layer.weight.detach().astype("float32")
    low_rank = low_rank_of(layer)
    return weight if low_rank is None else low_rank.whole(weight)


def bias_of(layer: nn.Layer) -> Optional[Tensor]:
    """The bias [out], None where there is none."""
    return getattr(layer, "bias", None)


def has_bias(layer: nn.Layer) -> bool:
    """Whether it has one, here or on the stage that holds it."""
    return layer.has_bias_elsewhere if is_elsewhere(layer) else bias_of(layer) is not None


def compute_dtype(layer: nn.Layer) -> str:
    """The type that the layer computes in, e.g. float32: an adapter's parameters have it too."""
    if hasattr(layer, "compute_dtype"):
        return layer.compute_dtype()
    if is_elsewhere(layer):
        return layer.dtype_elsewhere
    return str(layer.weight.dtype).rsplit(".", 1)[-1]


def is_elsewhere(layer: nn.Layer) -> bool:
    """Whether another stage of a pipeline holds it: here only its place and its size are known."""
    return getattr(layer, "is_elsewhere", False)


class LowRank:
    """How a low-rank product (x A) B goes beside a layer of which each rank has a part.

    By columns every rank has all of A and some columns of B; by rows some rows of A and all of B. What is between, r
    numbers a token, is all that ranks exchange.
    """

    def __init__(self, layer: nn.Layer) -> None:
        self._group = layer.model_parallel_group
        self._part: PartOf = layer.part if isinstance(layer, QuantisedPart) else layer.weight.part
        kind = layer.kind if isinstance(layer, QuantisedPart) else type(layer)
        self.is_by_columns = issubclass(kind, BY_COLUMNS)
        self.of_tokens = issubclass(kind, _OF_TOKENS)
        """With sequence parallelism: the parameter that every rank has sees some tokens only, so its gradients are
        to be added up."""

    def part(self, shape: Sequence[int], axis: int) -> PartOf:
        """What this rank has of an array whose axis `axis` goes along the matrix's split one, number by number or in
        blocks."""
        block = self._part.shape[self._part.axis] // shape[axis]
        return PartOf(tuple(shape), axis, tuple((first // block, last // block) for first, last in self._part.ranges))

    def cuts_between(self, block: int) -> bool:
        """Whether no block of so many numbers along the split axis lies on two ranks."""
        return not any(end % block for one in self._part.ranges for end in one)

    def take(self, whole: Tensor, axis: int) -> Tensor:
        """The same of a tensor."""
        found = [whole.slice([axis], [first], [last]) for first, last in self._part.ranges]
        return found[0] if len(found) == 1 else paddle.concat(found, axis=axis)

    def whole(self, weight: Tensor) -> Tensor:
        """The whole matrix from the parts of all ranks."""
        found: List[Tensor] = []
        dist.all_gather(found, weight.contiguous(), group=self._group)
        parts: List[PartOf] = []
        dist.all_gather_object(parts, self._part, group=self._group)
        whole = np.empty(self._part.shape, "float32")
        for one, part in zip(found, parts):
            part.put(one.numpy(), whole)
        return paddle.to_tensor(whole)

    def sum(self, tensor: Tensor) -> Tensor:
        """Added up over the ranks."""
        dist.all_reduce(tensor, group=self._group)
        return tensor

    def between(self, low: Tensor) -> Tensor:
        """x A as B reads it. What every rank has stands before it by columns, and behind it by rows: there its gradient
        is the whole one."""
        if self.of_tokens:
            return (AllGatherOp if self.is_by_columns else ReduceScatterOp).apply(low)
        if self.is_by_columns:
            return collective._c_identity(low, group=self._group)
        return mp_ops._mp_allreduce(low, group=self._group)


def low_rank_of(layer: nn.Layer) -> Optional[LowRank]:
    """None for a layer that every rank has whole."""
    return LowRank(layer) if isinstance(layer, (*BY_COLUMNS, *BY_ROWS, QuantisedPart)) else None
