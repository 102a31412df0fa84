"""Sharding stage 3: at rest every rank has some rows of each matrix (ZeRO: Rajbhandari et al. 2020,
https://arxiv.org/abs/1910.02054, section 5.3).

A layer's matrices are put together while it computes, and let go of again; the backward pass computes the layer once
more, as recomputing does, so that no activation needs them in between. Embedding and head are whole during a
micro-batch. Vectors, and what an adapter trains, are whole on every rank.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_sft.adapters.base import is_adapters
from paddle_sft.models.hub import unique_parameters
from paddle_sft.models.part_of import PartOf
from paddle_sft.models.split import Share


class Matrix:
    """A parameter of the model, and the rows of it that stay on this rank."""

    def __init__(self, whole: Tensor, group: Any) -> None:
        self.whole = whole
        self._group = group
        rows = whole.shape[0] // group.nranks
        kept = (rows * group.rank, rows * (group.rank + 1))
        nothing = nn.initializer.Constant(0.0)
        self.rows = nn.Layer().create_parameter(
            [rows, *whole.shape[1:]], dtype=whole.dtype, default_initializer=nothing
        )
        self.rows.part = PartOf(tuple(whole.shape), 0, (kept,))
        self.rows.stop_gradient, self.rows.optimize_attr = whole.stop_gradient, whole.optimize_attr
        self.keep()

    def keep(self) -> None:
        """Take this rank's rows out of the whole matrix, which is there, and let go of it."""
        first, last = self.rows.part.ranges[0]
        with paddle.no_grad():
            paddle.assign(self.whole[first:last], self.rows)
        self.release()

    def gather(self) -> None:
        """Put the whole matrix together."""
        together = paddle.empty(self.rows.part.shape, dtype=self.rows.dtype)
        dist.stream.all_gather(together, self.rows.detach(), group=self._group)
        together._share_buffer_to(self.whole)

    def release(self) -> None:
        self.whole._clear_data()

    def collect(self) -> None:
        """Add this rank's rows of the gradient's sum over ranks to theirs."""
        if self.whole.stop_gradient:
            return
        found = self.whole.grad
        found = paddle.zeros(self.rows.part.shape, dtype=self.rows.dtype) if found is None else found.detach()
        mine = paddle.empty(self.rows.shape, dtype=self.rows.dtype)
        dist.reduce_scatter(mine, found, group=self._group)
        self.rows.grad = mine if self.rows.grad is None else self.rows.grad + mine
        self.whole.clear_gradient(False)


class WeightShards:
    """The matrices of a model whose rows are shared out over a group."""

    def __init__(self, model: nn.Layer, group: Any) -> None:
        self._model = model
        self._group = group
        base = getattr(model, model.base_model_prefix)
        inside = {id(one): number for number, layer in enumerate(base.layers) for one in layer.parameters()}
        self.matrices: Dict[int, Matrix] = {}
        self._outer: List[Matrix] = []
        self._of_layer: Dict[int, List[Matrix]] = {}
        for name, parameter in unique_parameters(model).items():
            if is_adapters(name) or parameter.ndim != 2 or parameter.shape[0] % group.nranks:
                continue
            matrix = self.matrices[id(parameter)] = Matrix(parameter, group)
            number = inside.get(id(parameter))
            (self._outer if number is None else self._of_layer.setdefault(number, [])).append(matrix)
        model.share = Share()
        model.run_layer = self._run_layer

    def rows_of(self, parameters: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """The same names with what this rank has of each."""
        return {
            name: self.matrices[id(one)].rows if id(one) in self.matrices else one for name, one in parameters.items()
        }

    def keep(self) -> None:
        """Some of the model's weights were read anew: share these out again."""
        for matrix in self.matrices.values():
            if matrix.whole._is_initialized():
                matrix.keep()

    def open(self) -> None:
        """A micro-batch begins. All ranks open as often."""
        for matrix in self._outer:
            matrix.gather()

    def close(self, has_gradients: bool) -> None:
        """It has ended."""
        for matrix in self._outer:
            if has_gradients:
                matrix.collect()
            matrix.release()

    def _run_layer(self, number: int, layer: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        matrices = self._of_layer.get(number, [])
        if not paddle.is_grad_enabled():
            return _with(matrices, layer, hidden)
        if hidden.stop_gradient:  # behind a frozen embedding: the layer's own weights want theirs all the same
            hidden = hidden.detach()
            hidden.stop_gradient = False
        return _Layer.apply(hidden, layer, matrices)


def _with(matrices: List[Matrix], layer: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    for matrix in matrices:
        matrix.gather()
    output = layer(hidden)
    for matrix in matrices:
        matrix.release()
    return output


class _Layer(PyLayer):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, layer: Callable[[Tensor], Tensor], matrices: List[Matrix]) -> Tensor:
        ctx.layer, ctx.matrices, ctx.random = layer, matrices, paddle.get_rng_state()
        ctx.save_for_backward(hidden)
        with paddle.no_grad():
            return _with(matrices, layer, hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensor()
        hidden = hidden.detach()
        hidden.stop_gradient = False
        random = paddle.get_rng_state()
        paddle.set_rng_state(ctx.random)
        for matrix in ctx.matrices:
            matrix.gather()
        with paddle.enable_grad():
            output = ctx.layer(hidden)
        paddle.set_rng_state(random)
        paddle.autograd.backward([output], [gradient])
        for matrix in ctx.matrices:
            matrix.collect()
            matrix.release()
        return hidden.grad
