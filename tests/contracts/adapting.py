"""What the adapters' contract tests loop over, and how they make an adapted model."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.catalogue import ADAPTERS
from tests import tiny

METHODS = sorted(ADAPTERS)
ON_LAYERS = [name for name in METHODS if ADAPTERS[name].layer]
MERGED = [name for name in ON_LAYERS if not ADAPTERS[name].why_not_merge]
ROUNDING = {**{method: 0.0 for method in METHODS}, "dora": 1e-5, "pissa": 1e-5, "olora": 1e-5}
"""Largest difference of a logit at the start of a method that starts at zero; above 0 where it takes a rounding."""
BASES = ["llama", "qwen2", "gemma", "bloom", "gpt2"]
"""Plain; biased and tied; tied with a wide head; fused qkv, biased and tied, head by head; fused part by part."""
IDLE = {"reft": "model.edits.1_first."}
"""Begin of the names of what can't move: behind the last layer nobody looks at a prompt's first tokens any more."""
_EVERYWHERE = ("lora",)
"""Methods that are tried on every base; the others on one whose layers all have biases, which BLOOM is, and on one that
changes from method to method, so that all of them together are tried on all bases."""
_NEEDS_BIAS = ("bitfit",)


def bases_of(method: str) -> List[str]:
    """The families that a method is tried on."""
    if method in _EVERYWHERE:
        return BASES
    others = ["qwen2", "gpt2"] if method in _NEEDS_BIAS else ["llama", "qwen2", "gemma", "gpt2"]
    return [others[METHODS.index(method) % len(others)], "bloom"]


PAIRS: List[Tuple[str, str]] = [(method, family) for method in METHODS for family in bases_of(method)]


def plain_base(method: str) -> str:
    """The family for what needs one only: llama, unless the method can't go there."""
    return "qwen2" if method in _NEEDS_BIAS else "llama"


def put(method: str, model: Any) -> Any:
    """Attach a fresh adapter with the method's default numbers; returns the config."""
    targets = "all-linear" if ADAPTERS[method].layer and method not in _NEEDS_BIAS else None
    return attach(model, method, ADAPTERS[method].config(), targets)


def base_of(model: Any) -> Dict[str, np.ndarray]:
    """Name -> array of every weight that isn't the adapter's, under the base model's own names."""
    return {name.replace(".base.", "."): array for name, array in tiny.snapshot(model).items() if not is_adapters(name)}
