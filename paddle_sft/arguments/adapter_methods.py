"""What the arguments know of the adapter methods: their names, their switches, and which keys are theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple


@dataclass(frozen=True)
class MethodKeys:
    """One method as a user writes it."""

    switch: str = ""
    """PaddleNLP's key that means the same as `adapter: <name>` when it is true."""
    keys: Tuple[str, ...] = ()
    """Keys that only this method (and others that list them) reads."""
    learning_rate: Optional[float] = None
    """The method's own default, where one for the training of all weights teaches it nothing; said in the plan."""
    on_layers: bool = True
    """Whether it changes linear layers, so that lora_target_modules means something."""


_LORA = ("lora_rank", "lora_alpha", "lora_dropout")

METHODS: Dict[str, MethodKeys] = {
    "lora": MethodKeys("lora", _LORA),
}
"""Name -> its keys; a test compares the names with the catalogue of the adapters."""
