"""One frozen linear layer for every codec: it keeps codes, and makes its weight anew whenever it computes."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import numpy as np
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddle_sft.operators.linear import product
from paddle_sft.quant.codec import Arrays, dequantise, quantise
from paddle_sft.quant.scheme import Scheme


class QuantisedLinear(nn.Layer):
    """y = x W + b with W stored in 4 or 8 bits. Shapes: x [..., in], W [in, out], b [out], y [..., out].

    Codes and scales are buffers, named as in `Scheme.shapes`; W is never trained. Its gradient for x is exact for the
    dequantised W. Forward and backward each make W and drop it, so that of all layers one W is in memory at a time.

    Args:
        arrays: what `quant.codec.quantise` gave for W transposed, [out, in].
        dtype: the type of x and y, e.g. float32.
    """

    def __init__(
        self,
        arrays: Arrays,
        scheme: Scheme,
        in_features: int,
        out_features: int,
        dtype: str,
        bias: Optional[Tensor] = None,
    ) -> None:
        super().__init__(dtype=dtype)
        self.scheme = scheme
        self.in_features = in_features
        self.out_features = out_features
        self.bias = bias
        if bias is not None:
            bias.stop_gradient = True
        for name, (shape, _) in scheme.shapes(in_features, out_features).items():
            if list(arrays[name].shape) != shape:
                raise ValueError(f"{name} is {list(arrays[name].shape)}, {scheme} needs {shape}")
            self.register_buffer(name, arrays[name])
        self.read_original: Optional[Callable[[], np.ndarray]] = None
        """Reads the float weight [in, out] from the folder that it came from; None where only codes are left."""

    @classmethod
    def of(cls, weight: Tensor, scheme: Scheme, bias: Optional[Tensor] = None, name: str = "the weight") -> Any:
        """Quantise a weight [in, out]; the layer computes in its type.

        Raises:
            ModelError: it holds NaN or infinities; `name` says which weight.
        """
        rows, columns = (int(size) for size in weight.shape)
        dtype = str(weight.dtype).rsplit(".", 1)[-1]
        return cls(quantise(weight.t(), scheme, name), scheme, rows, columns, dtype, bias)

    @property
    def arrays(self) -> Arrays:
        """Codes and scales by name."""
        return {name: getattr(self, name) for name in self.scheme.shapes(self.in_features, self.out_features)}

    def features(self) -> Tuple[int, int]:
        return self.in_features, self.out_features

    def compute_dtype(self) -> str:
        return self._dtype if isinstance(self._dtype, str) else str(self._dtype).rsplit(".", 1)[-1]

    def dequantised_weight(self) -> Tensor:
        """[out, in] in float32, as codes are laid out."""
        return dequantise(self.arrays, self.scheme, self.in_features, self.out_features)

    def weight_matrix(self) -> Tensor:
        """W [in, out] in float32, without a gradient."""
        return self.dequantised_weight().t()

    def product(self, x: Tensor) -> Tensor:
        """x W, without the bias."""
        return _Product.apply(x, self)

    def forward(self, x: Tensor) -> Tensor:
        output = self.product(x)
        return output if self.bias is None else output + self.bias.astype(output.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme.describe()}"

    def _apply(self, func: Callable, device: Any, dtype: Any, blocking: Any, include_sublayers: bool = True) -> None:
        """Paddle's `to` and `amp.decorate` cast buffers too. Scales stay float32: codes would mean other weights."""
        buffers = dict(self._buffers)
        self._buffers.clear()
        before = self._dtype
        super()._apply(func, device, dtype, blocking, include_sublayers)
        self._dtype = before if dtype is None else dtype
        self._buffers.update({name: func(buffer, device, None, blocking) for name, buffer in buffers.items()})


class _Product(PyLayer):
    """x W; for the backward pass nothing is kept but the layer, whose codes stay where they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return _of_rows(x, layer.dequantised_weight().astype(x.dtype), transpose=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        weight = ctx.layer.dequantised_weight().astype(gradient.dtype)
        return _of_rows(gradient, weight).astype(ctx.dtype)


def _of_rows(x: Tensor, weight: Tensor, transpose: bool = False) -> Tensor:
    """x [..., n] times a matrix."""
    rows = product(x.reshape([-1, x.shape[-1]]), weight, transpose_y=transpose)
    return rows.reshape([*x.shape[:-1], rows.shape[-1]])
