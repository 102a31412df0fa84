"""The edits of ReFT: each makes other hidden states of hidden states.

The equations are those of the paper's tables and of its library, under whose names they are known; TinyIntervention is
PaddleNLP's.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Type

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.virtual import Dense

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": paddle.tanh,
    "sigmoid": F.sigmoid,
}


class Rotation(nn.Layer):
    """R^T [H, rank] with orthonormal columns, whatever the optimizer does: R^T = A (L^-1)^T, where A^T A = L L^T.

    A starts orthonormal, and is then R^T itself. (Cholesky's way of Gram and Schmidt: H rank^2 operations.)
    """

    def __init__(self, hidden_size: int, rank: int, dtype: str) -> None:
        super().__init__()
        self.weight = self.create_parameter(
            [hidden_size, rank], dtype=dtype, default_initializer=nn.initializer.Orthogonal()
        )

    def forward(self) -> Tensor:
        free = self.weight.astype("float32")
        lower = paddle.linalg.cholesky(free.T @ free)
        return paddle.linalg.triangular_solve(lower, free.T, upper=False).T.astype(self.weight.dtype)


class Intervention(nn.Layer):
    """h [N, H] -> [N, H]. A subclass has a class attribute `parts`: what it is made of, which `count` counts."""

    parts = ("rotation", "source")

    def __init__(self, hidden_size: int, config: Any, dtype: str) -> None:
        super().__init__()
        self._activation, self._dropout = ACTIVATIONS[config.act_fn], config.dropout
        if "rotation" in self.parts:
            self.rotation = Rotation(hidden_size, config.rank, dtype)
        if "projection" in self.parts:
            self.projection = Dense(hidden_size, config.rank, dtype, has_bias=config.add_bias)
        if "free" in self.parts:
            self.projection = Dense(hidden_size, config.rank, dtype, has_bias=False)
        if "source" in self.parts:
            self.source = Dense(hidden_size, config.rank, dtype)
        if "constant" in self.parts:
            drawn = nn.initializer.Uniform(0.0, 1.0)
            self.constant = self.create_parameter([config.rank], dtype=dtype, default_initializer=drawn)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden + self.change(hidden), self._dropout, training=self.training)

    def change(self, hidden: Tensor) -> Tensor:
        """What is added. [N, H] -> [N, H]."""
        raise NotImplementedError

    def _wanted(self, hidden: Tensor) -> Tensor:
        return self._activation(self.source(hidden))

    @classmethod
    def count(cls, hidden_size: int, config: Any) -> int:
        rank = config.rank
        sizes = {
            "rotation": hidden_size * rank,
            "projection": (hidden_size + bool(config.add_bias)) * rank,
            "free": hidden_size * rank,
            "source": (hidden_size + 1) * rank,
            "constant": rank,
            "scaled_factors": 2 * hidden_size * rank + rank + hidden_size,
        }
        return sum(sizes[part] for part in cls.parts)


class Loreft(Intervention):
    """h + R^T (W h + b - R h), R orthonormal (Wu et al. 2024, equation 2)."""

    def change(self, hidden: Tensor) -> Tensor:
        rotation = self.rotation()
        return (self._wanted(hidden) - hidden @ rotation) @ rotation.T


class Direft(Intervention):
    """h + R^T (W h + b), R orthonormal: the paper's ablation between LoReFT and LoRA (its equation 3 is `Nodireft`)."""

    def change(self, hidden: Tensor) -> Tensor:
        return self._wanted(hidden) @ self.rotation().T


class Consreft(Intervention):
    """h + R^T (b - R h)."""

    parts = ("rotation", "constant")

    def change(self, hidden: Tensor) -> Tensor:
        rotation = self.rotation()
        return (self.constant - hidden @ rotation) @ rotation.T


class Lobireft(Intervention):
    """h + R^T b."""

    parts = ("rotation", "constant")

    def change(self, hidden: Tensor) -> Tensor:
        return (self.constant @ self.rotation().T).expand(hidden.shape)


class Noreft(Intervention):
    """h + W2^T (W1 h + b1 - W2 h - b2), W2 free; b2 with add_bias."""

    parts = ("projection", "source")

    def change(self, hidden: Tensor) -> Tensor:
        return (self._wanted(hidden) - self.projection(hidden)) @ self.projection.weight.T


class Nodireft(Intervention):
    """h + W2^T (W1 h + b), W2 free: the paper's DiReFT (equation 3)."""

    parts = ("free", "source")

    def change(self, hidden: Tensor) -> Tensor:
        return self._wanted(hidden) @ self.projection.weight.T


class Tiny(Intervention):
    """h + h A diag(a) B diag(b), B zero at the start (PaddleNLP's TinyIntervention; there without dropout)."""

    parts = ("scaled_factors",)

    def __init__(self, hidden_size: int, config: Any, dtype: str) -> None:
        super().__init__(hidden_size, config, dtype)
        bound, zero, one = hidden_size**-0.5, nn.initializer.Constant(0.0), nn.initializer.Constant(1.0)
        drawn = nn.initializer.Uniform(-bound, bound)
        shapes = {"param_a": ([config.rank], one), "param_b": ([hidden_size], one)}
        shapes["param_A"], shapes["param_B"] = ([hidden_size, config.rank], drawn), ([config.rank, hidden_size], zero)
        for name, (shape, start) in shapes.items():
            setattr(self, name, self.create_parameter(shape, dtype=dtype, default_initializer=start))

    def change(self, hidden: Tensor) -> Tensor:
        return ((hidden @ self.param_A) * self.param_a) @ self.param_B * self.param_b


INTERVENTIONS: Dict[str, Type[Intervention]] = {
    "LoreftIntervention": Loreft,
    "DireftIntervention": Direft,
    "NodireftIntervention": Nodireft,
    "NoreftIntervention": Noreft,
    "ConsreftIntervention": Consreft,
    "LobireftIntervention": Lobireft,
    "TinyIntervention": Tiny,
}
