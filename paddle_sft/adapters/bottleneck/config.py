"""What a user decides about bottleneck adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.adapters.roles import ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT, with_roles
from paddle_sft.adapters.targets import Targets
from paddle_sft.core.errors import ArgumentError

ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


@dataclass(frozen=True)
class BottleneckConfig(AdapterConfig):
    """The adapter's numbers (https://arxiv.org/abs/1902.00751, section 2.1)."""

    bottleneck_size: int = 64
    """Inner size m of the two layers d -> m -> d."""
    bottleneck_activation: str = "gelu"
    """What stands between them."""

    def __post_init__(self) -> None:
        if self.bottleneck_size < 1:
            raise ArgumentError(f"bottleneck_size must be at least 1, got {self.bottleneck_size}")
        if self.bottleneck_activation not in ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS)
            raise ArgumentError(f"bottleneck_activation must be one of {allowed}, got {self.bottleneck_activation!r}")

    def on(self, linears: Dict[str, Any], targets: Targets) -> BottleneckConfig:
        """After the last layers of attention and feed-forward network, unless the user names layers."""
        if targets is None:
            targets = with_roles(list(linears), [ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT], "bottleneck")
        return super().on(linears, targets)
