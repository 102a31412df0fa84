"""What a user decides about BitFit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.adapters.targets import ALL_LINEAR, Targets
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import has_bias


@dataclass(frozen=True)
class BitFitConfig(AdapterConfig):
    """BitFit has no numbers to choose (https://arxiv.org/abs/2106.10199, section 3)."""

    def on(self, linears: Dict[str, Any], targets: Targets) -> BitFitConfig:
        """Every linear layer with a bias, unless the user names layers."""
        biased = [path for path, layer in linears.items() if has_bias(layer)]
        if not biased:
            raise ArgumentError(
                "adapter bitfit trains biases, and no linear layer of this model has one (of Llama's kind few models "
                "do; Qwen2, Bloom, OPT and GPT-2 do); choose another adapter, such as lora or ia3"
            )
        config = super().on(linears, biased if targets in (None, ALL_LINEAR, [ALL_LINEAR]) else targets)
        without = [path for path in config.target_modules if path not in biased]
        if without:
            names = ", ".join(dict.fromkeys(path.rsplit(".", 1)[-1] for path in biased))
            raise ArgumentError(
                f"lora_target_modules: {without[0]} has no bias to train (and {len(without) - 1} more); of this "
                f"model's linear layers these have one: {names}"
            )
        return config
