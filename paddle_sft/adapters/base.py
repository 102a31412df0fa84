"""The contract between an adapter method and everything else, and the one wrapper that composes it with its base."""

from __future__ import annotations

from typing import Any, Dict

from paddle import Tensor, nn


class Delta(nn.Layer):
    """What a method adds to one linear layer.

    A subclass sets `starts_at_zero`, takes (in_features, out_features, config, dtype) and implements `forward` and
    `delta_weight`. Merging, saving and the tests know nothing else of a method.
    """

    starts_at_zero = True

    def __init__(self, in_features: int, out_features: int, config: Any, dtype: str) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the base layer's output. x [..., in] -> [..., out]."""
        raise NotImplementedError

    def delta_weight(self) -> Tensor:
        """The same update as one float32 matrix [in, out], for merging."""
        raise NotImplementedError

    @staticmethod
    def count(in_features: int, out_features: int, config: Any) -> int:
        """Trainable numbers by formula; a test compares it with the parameters that exist."""
        raise NotImplementedError


class AdaptedLinear(nn.Layer):
    """A frozen linear layer plus an update: y = base(x) + delta(x)."""

    def __init__(self, base: nn.Layer, delta: Delta) -> None:
        super().__init__()
        self.base = base
        self.delta = delta
        self.enabled = True
        for parameter in base.parameters():
            parameter.stop_gradient = True

    @property
    def weight(self) -> Tensor:
        """The base's weight, for PaddleNLP code that asks a linear layer for its dtype or shape."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.delta(x) if self.enabled else self.base(x)


def adapted_linears(model: nn.Layer) -> Dict[str, AdaptedLinear]:
    """Path -> wrapper, in the model's order."""
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, AdaptedLinear)}
