"""Every adapter method: its name in adapter.json, its config and its layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Type

from paddle_sft.adapters.base import Delta
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.lora.layer import LoRADelta


@dataclass(frozen=True)
class Method:
    config: type
    layer: Type[Delta]


ADAPTERS: Dict[str, Method] = {
    "lora": Method(LoRAConfig, LoRADelta),
}
