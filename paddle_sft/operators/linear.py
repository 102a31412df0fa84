"""Linear layers that share an input, computed together: with an update of low rank, or plain."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_sft.operators.build import load_operators
from paddle_sft.operators.cpu import like, made, size_of, whole


@dataclass(frozen=True)
class LinearParts:
    """y = x W + bias + scaling (x A) B. Shapes: W [in, out], bias [out], A [in, rank], B [rank, out]."""

    weight: Tensor
    bias: Optional[Tensor] = None
    a: Optional[Tensor] = None
    b: Optional[Tensor] = None
    scaling: float = 1.0

    def tensors(self) -> List[Tensor]:
        return [one for one in (self.weight, self.bias, self.a, self.b) if one is not None]


class _Linear(ctypes.Structure):
    """`Linear` of linear.cc."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "a", "b", "y", "inner", "gradient")),
        *((f"for_{name}", ctypes.c_void_p) for name in ("weight", "bias", "a", "b")),
        *((name, ctypes.c_int64) for name in ("out", "rank")),
        ("scaling", ctypes.c_float),
    ]


def linears(x: Tensor, layers: Sequence[LinearParts]) -> List[Tensor]:
    """Outputs of layers that read the same x.

    All is float32 on a CPU with compiled operators. One pass makes each output, and one sum the gradient of x; frozen
    weights get no gradient, and x none if it needs none.

    Shapes: x [..., in] -> [..., out] of each layer.
    """
    tensors = [tensor for layer in layers for tensor in layer.tensors()]
    outputs = _Linears.apply(x, tuple(layers), *tensors)
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def product(
    x: Tensor,
    y: Tensor,
    transpose_x: bool = False,
    transpose_y: bool = False,
    add_to: Optional[Tensor] = None,
    room: Optional[Tensor] = None,
) -> Tensor:
    """op(x) op(y) of two matrices, without a gradient; added to `add_to`, in place, if it is given. Compiled where both
    are float32 and there are compiled operators, else Paddle's.

    Args:
        room: an array of the result's shape, which the compiled product may take for it.
    """
    is_plain = x.dtype == y.dtype == paddle.float32 and load_operators() is not None
    if not is_plain or (paddle.is_grad_enabled() and not (x.stop_gradient and y.stop_gradient)):
        if add_to is None:
            return paddle.matmul(x, y, transpose_x, transpose_y)
        return paddle.addmm_(add_to, x.T if transpose_x else x, y.T if transpose_y else y)
    x, y = whole(x), whole(y)
    inner, rows = x.shape if transpose_x else reversed(x.shape)
    columns = y.shape[0 if transpose_y else 1]
    output = room if add_to is None else add_to
    if output is None:
        output = made([rows, columns])
    pointers = (x.data_ptr(), y.data_ptr(), output.data_ptr())
    load_operators().product(*pointers, rows, columns, inner, transpose_x, transpose_y, 1.0, add_to is not None)
    return output


class _Linears(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Tuple[LinearParts, ...], *tensors: Tensor) -> Any:
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, *tensors)]
        ctx.layers = layers
        x = whole(x)
        rows = size_of(x) // x.shape[-1]
        outputs = [made([*x.shape[:-1], layer.weight.shape[1]]) for layer in layers]
        inners = [None if layer.a is None else made([rows, layer.a.shape[1]]) for layer in layers]
        table = (_Linear * len(layers))()
        for entry, layer, output, inner in zip(table, layers, outputs, inners):
            _describe(entry, layer)
            entry.y, entry.inner = output.data_ptr(), _pointer(inner)
        load_operators().linears(x.data_ptr(), rows, x.shape[-1], table, len(layers))
        ctx.save_for_backward(x, *(inner for inner in inners if inner is not None))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *inners = ctx.saved_tensor()  # under recompute nothing else holds them
        left = iter(inners)
        gradients = [whole(gradient) for gradient in gradients]
        for_x = like(x) if ctx.wanted[0] else None
        wanted = ctx.wanted[1:]
        found: List[Optional[Tensor]] = []
        table = (_Linear * len(ctx.layers))()
        for entry, layer, gradient in zip(table, ctx.layers, gradients):
            _describe(entry, layer)
            entry.gradient = gradient.data_ptr()
            if layer.a is not None:
                entry.inner = next(left).data_ptr()
            for name in ("weight", "bias", "a", "b"):
                tensor = getattr(layer, name)
                if tensor is not None:
                    found.append(like(tensor) if wanted[len(found)] else None)
                    setattr(entry, f"for_{name}", _pointer(found[-1]))
        rows = size_of(x) // x.shape[-1]
        load_operators().linears_grad(x.data_ptr(), rows, x.shape[-1], table, len(table), _pointer(for_x))
        return (for_x, *found)


def _describe(entry: _Linear, layer: LinearParts) -> None:
    entry.weight, entry.bias = layer.weight.data_ptr(), _pointer(layer.bias)
    entry.a, entry.b = _pointer(layer.a), _pointer(layer.b)
    entry.out, entry.rank = layer.weight.shape[1], 0 if layer.a is None else layer.a.shape[1]
    entry.scaling = layer.scaling


def _pointer(tensor: Optional[Tensor]) -> Optional[int]:
    return None if tensor is None else tensor.data_ptr()
