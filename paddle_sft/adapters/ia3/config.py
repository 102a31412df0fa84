"""What a user decides about IA3."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.adapters.roles import FEED_FORWARD_OUTPUT, KEY_VALUE, has_role, with_roles
from paddle_sft.adapters.targets import Targets


@dataclass(frozen=True)
class IA3Config(AdapterConfig):
    """IA3 has no numbers to choose (https://arxiv.org/abs/2205.05638, section 3.3)."""

    scales_input: bool = False
    """Of one layer: whether its input is scaled, not its output."""

    def for_path(self, path: str) -> IA3Config:
        return replace(self, scales_input=has_role(path, FEED_FORWARD_OUTPUT))

    def on(self, linears: Dict[str, Any], targets: Targets) -> IA3Config:
        """Keys, values and the input of the feed-forward network's last layer, unless the user names layers."""
        if targets is None:
            targets = with_roles(list(linears), [KEY_VALUE, FEED_FORWARD_OUTPUT], "ia3")
        return super().on(linears, targets)
