"""Every adapter method: its name in adapter.json, its config and its layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Type

from paddle_sft.adapters.base import AdapterConfig, ModelUpdate, Update
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.lora.layer import LoRADelta


@dataclass(frozen=True)
class Method:
    """A method is a config and the layer that is put on each linear layer, on the model, or both."""

    config: Type[AdapterConfig]
    layer: Optional[Type[Update]] = None
    model: Optional[Type[ModelUpdate]] = None

    @property
    def why_not_merge(self) -> str:
        """The reason, where an adapter of this method can't be merged."""
        return next((part.why_not_merge for part in (self.layer, self.model) if part and part.why_not_merge), "")


ADAPTERS: Dict[str, Method] = {
    "lora": Method(LoRAConfig, LoRADelta),
}
