"""LoRA that starts from the base layer's own weight: PiSSA and OLoRA. The base stays bit for bit what it is."""

from __future__ import annotations

from typing import Dict, Tuple

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT
from paddle_sft.adapters.lora.config import LoRAConfig, PiSSAConfig
from paddle_sft.adapters.lora.layer import LoRADelta
from paddle_sft.adapters.lora.singular import leading_singular
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import LowRank, weight_matrix


class StartedDelta(LoRADelta):
    """delta(x) = scaling * (x A B - x A0 B0), with A0, B0 the values that A and B start from, kept beside them.

    The papers take scaling * A0 B0 out of the frozen weight; here the weight stays, and the two low-rank products are
    one of rank 2r: x [A | A0] times B above -B0. So the trained adapter is plain LoRA of rank 2r.
    """

    def __init__(self, in_features: int, out_features: int, config: LoRAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.rank = config.lora_rank
        self.register_buffer("start_a", paddle.zeros([in_features, self.rank], dtype=dtype))
        self.register_buffer("start_b", paddle.zeros([self.rank, out_features], dtype=dtype))

    def factors_of(self, weight: Tensor) -> Tuple[Tensor, Tensor]:
        """(A0 [in, r], B0 [r, out]) for a base of this float32 weight [in, out]."""
        raise NotImplementedError

    def start(self, base: nn.Layer) -> None:
        if self.rank > min(self.in_features, self.out_features):
            raise ArgumentError(
                f"lora_rank {self.rank} is more than a layer of {self.in_features} x {self.out_features} has to start "
                "from; lower lora_rank, give the layer its own in rank_pattern, or use adapter lora"
            )
        with paddle.no_grad():
            for value, found in zip(("a", "b"), self.factors_of(weight_matrix(base))):
                found = found.astype(self.lora_a.dtype)
                getattr(self, f"lora_{value}").set_value(found)
                getattr(self, f"start_{value}").set_value(found)

    def plain_factors(self) -> Tuple[Tensor, Tensor]:
        """A [in, 2r] and B [2r, out] of the plain LoRA that computes the same, with the same scaling."""
        return paddle.concat([self.lora_a, self.start_a], axis=1), paddle.concat([self.lora_b, -self.start_b])

    def delta(self, x: Tensor) -> Tensor:
        if self.dropout and self.training:
            x = nn.functional.dropout(x, self.dropout)
        a, b = self.plain_factors()
        low = x @ a * self.scaling
        return (low if self.low_rank is None else self.low_rank.between(low)) @ b

    def split_axes(self, low_rank: LowRank) -> Dict[str, int]:
        return {"lora_b": 1, "start_b": 1} if low_rank.is_by_columns else {"lora_a": 0, "start_a": 0}

    def delta_weight(self) -> Tensor:
        a, b = self.plain_factors()
        return self.scaling * (a.astype("float32") @ b.astype("float32"))


class PiSSADelta(StartedDelta):
    """Start from the r largest singular values and vectors, W = U S V' (Meng et al. 2024, equations 2 and 3).

    A0 = U_r sqrt(S_r / scaling), B0 = sqrt(S_r / scaling) V_r': scaling * A0 B0 is the nearest matrix of rank r.
    """

    splits = EVERY_SPLIT

    def __init__(self, in_features: int, out_features: int, config: PiSSAConfig, dtype: str) -> None:
        super().__init__(in_features, out_features, config, dtype)
        self.niter = config.pissa_niter

    def factors_of(self, weight: Tensor) -> Tuple[Tensor, Tensor]:
        u, s, v = leading_singular(weight, self.rank, self.niter)
        root = (s / self.scaling).sqrt()
        return u * root, root.unsqueeze(1) * v


class OLoRADelta(StartedDelta):
    """Start from the QR decomposition of W' [out, in] (Büyükakyüz 2024, https://arxiv.org/abs/2406.01775, section 3):
    B0 are the first r columns of Q, transposed, and A0 the first r rows of R, transposed."""

    splits = EVERY_SPLIT

    def factors_of(self, weight: Tensor) -> Tuple[Tensor, Tensor]:
        q, r = paddle.linalg.qr(weight.T)
        return r[: self.rank].T, q[:, : self.rank].T
