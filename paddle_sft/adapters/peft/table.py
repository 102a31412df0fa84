"""What a table of a method says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple

import numpy as np

from paddle_sft.adapters.peft.modules import Modules
from paddle_sft.adapters.peft.settings import Settings
from paddle_sft.adapters.saved import SavedAdapter

Turn = Callable[[np.ndarray], np.ndarray]


def same(array: Any) -> Any:
    return array


def transposed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T)


def as_column(array: np.ndarray) -> np.ndarray:
    """[n] -> [n, 1]"""
    return array.reshape(-1, 1)


def as_row(array: np.ndarray) -> np.ndarray:
    """[n] -> [1, n]"""
    return array.reshape(1, -1)


def as_vector(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


@dataclass(frozen=True)
class Weight:
    """One parameter of an adapted layer: what the update calls it, what PEFT calls it."""

    ours: str
    theirs: str
    """End of PEFT's name behind the layer's, such as lora_A.weight."""
    out: Turn = same
    """Our array -> PEFT's."""
    back: Turn = same


@dataclass(frozen=True)
class Layers:
    """The weights of a folder by layer: our path -> end of PEFT's name -> array."""

    of: Dict[str, Dict[str, np.ndarray]]
    shared: Dict[str, np.ndarray]
    """What belongs to no layer: PEFT's name -> array."""
    modules: Modules


@dataclass(frozen=True)
class Table:
    """A method of PEFT that changes linear layers, and ours."""

    peft_type: str
    weights: Tuple[Weight, ...]
    settings: Settings
    read: Callable[[Dict[str, Any], Layers], Tuple[str, Any]]
    """(adapter_config.json, weights) -> (our method, its config without target_modules)."""
    write: Callable[[SavedAdapter, Modules], Dict[str, Any]]
    """-> the method's own settings in adapter_config.json."""
    optional: Tuple[str, ...] = ()
    """Ends of PEFT's names that not every layer has."""
    embedding: Tuple[Weight, ...] = ()
    """In the place of `weights` where the layer is an embedding; () where it can be none."""
    shared: Tuple[Weight, ...] = ()
    """Weights that belong to no layer: whole names on both sides."""
    prepare: Callable[[SavedAdapter], SavedAdapter] = same
    """What is done before an adapter is written: it becomes one that PEFT has."""
    has_fan_in_fan_out: bool = True
    """Whether its settings know fan_in_fan_out."""
    has_token_rows: bool = False
    """Whether its settings know trainable_token_indices."""

    def weights_of(self, path: str, modules: Modules) -> Tuple[Weight, ...]:
        """Those of one layer."""
        return self.embedding if path in modules.embeddings else self.weights
