"""What prompt tuning, P-tuning and prefix tuning share: tokens before every sample that no text has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

from paddle import Tensor, nn

from paddle_sft.adapters.base import AdapterConfig, ModelFacts, ModelUpdate
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.virtual import VirtualTokens, install


@dataclass(frozen=True)
class VirtualConfig(AdapterConfig):
    """How many virtual tokens stand before every sample."""

    num_virtual_tokens: int = 20
    """Each costs as much memory and time as a token of the text in front of which it stands."""

    def __post_init__(self) -> None:
        if self.num_virtual_tokens < 1:
            raise ArgumentError(f"num_virtual_tokens must be at least 1, got {self.num_virtual_tokens}")


WITH_WHOLE_ROWS = ("tensor", "sequence", "pipeline", "stage3")
"""Ways to split a model (`Family.splits`) in which rows are whole where they begin."""


class VirtualUpdate(ModelUpdate, VirtualTokens):
    """A `ModelUpdate` that is virtual tokens."""

    in_rows = True
    stands_alone = True
    why_not_split = "its virtual tokens stand in every row, and the rows are cut into parts without them"

    def __init__(self, facts: ModelFacts, config: Any, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        self.num_virtual = config.num_virtual_tokens

    def install(self, model: nn.Layer) -> None:
        install(model, self)


class Dense(nn.Layer):
    """y = x W + b, all drawn from +-1 / sqrt(in), as PEFT starts it.

    Not an nn.Linear, which would be taken for a layer of the base that adapters and quantisation may change.
    """

    def __init__(self, in_features: int, out_features: int, dtype: str, has_bias: bool = True) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(in_features)
        drawn = nn.initializer.Uniform(-bound, bound)
        self.weight = self.create_parameter([in_features, out_features], dtype=dtype, default_initializer=drawn)
        self.bias = self.create_parameter([out_features], dtype=dtype, default_initializer=drawn) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else x @ self.weight + self.bias


def table(layer: nn.Layer, rows: int, columns: int, dtype: str, spread: float = 1.0) -> Tensor:
    """A new parameter [rows, columns] from a normal distribution; 1 is the spread of a fresh embedding in PEFT."""
    return layer.create_parameter([rows, columns], dtype=dtype, default_initializer=nn.initializer.Normal(0.0, spread))


def encoder_size(given: Optional[int], usual: int) -> int:
    """The inner width of an encoder, `usual` where none is given.

    Raises:
        ArgumentError: it is below 1.
    """
    if given is not None and given < 1:
        raise ArgumentError(f"encoder_hidden_size must be at least 1, got {given}; leave it out for {usual}")
    return given or usual
