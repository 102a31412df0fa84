"""The largest singular values and vectors of a weight, and the start that LoftQ makes of them."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import weight_matrix

_OVERSAMPLING = 8
"""Columns beyond the rank in the randomised decomposition (Halko et al. 2011, section 1.3: 5 to 10 are enough)."""


def leading_singular(weight: Tensor, rank: int, niter: Optional[int] = None) -> Tuple[Tensor, Tensor, Tensor]:
    """(U [in, r], S [r], V' [r, out]) of the largest singular values.

    Args:
        niter: None: exact, O(in * out * min(in, out)). A number: as many subspace iterations, O(in * out * r) each
            (Halko et al. 2011, algorithms 4.4 and 5.1); the random start is Paddle's current seed's.
    """
    if niter is None:
        u, s, v = _decompose(weight)
        return u[:, :rank], s[:rank], v[:rank]
    size = min(rank + _OVERSAMPLING, *weight.shape)
    basis, _ = paddle.linalg.qr(weight @ paddle.randn([weight.shape[1], size], dtype=weight.dtype))
    for _ in range(niter):
        basis, _ = paddle.linalg.qr(weight.T @ basis)
        basis, _ = paddle.linalg.qr(weight @ basis)
    u, s, v = _decompose(basis.T @ weight)
    return (basis @ u)[:, :rank], s[:rank], v[:rank]


def _decompose(matrix: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """U, S, V'; on a CPU numpy's, for Paddle 3.3.1's takes 7 times as long (512 x 512)."""
    if not matrix.place.is_cpu_place():
        return paddle.linalg.svd(matrix, full_matrices=False)
    return tuple(paddle.to_tensor(found) for found in np.linalg.svd(matrix.numpy(), full_matrices=False))


@paddle.no_grad()
def factors_of_rest(base: nn.Layer, rank: int, scaling: float) -> Tuple[Tensor, Tensor]:
    """LoftQ's A [in, r] and B [r, out]: scaling * A B is the nearest matrix of rank r to W - Q, what quantising lost.

    Li et al. 2023, https://arxiv.org/abs/2310.08659, equation 8 with Q = quant(W): one step of the paper's alternation,
    because the base, which other adapters share, keeps its codes.

    Raises:
        ArgumentError: the base isn't quantised, or the weights it was quantised from are not there.
    """
    if not hasattr(base, "read_original"):
        raise ArgumentError(
            "loftq starts from what quantising has lost, and this base is not quantised; set weight_quantize_algo, or "
            "leave loftq out"
        )
    if base.read_original is None:
        raise ArgumentError(
            "loftq needs the weights that the base was quantised from, and this folder holds codes only; name the "
            "original model in model_name_or_path, with weight_quantize_algo"
        )
    rest = paddle.to_tensor(base.read_original()).astype("float32") - weight_matrix(base)
    u, s, v = leading_singular(rest, rank)
    root = (s / scaling).sqrt()
    return u * root, root.unsqueeze(1) * v
