"""Scales of the inputs of linear layers, for 8-bit activations, by PaddleSlim's observers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, Sequence

import numpy as np
from paddle import Tensor, nn
from paddleslim.quant.observers import AbsmaxObserver, AVGObserver, EMDObserver, HistObserver, KLObserver, MSEObserver

from paddle_sft.core.catalogue import choose
from paddle_sft.export.slim.walk import run_rows, watched
from paddle_sft.models.linears import find_linears

OBSERVERS: Dict[str, Any] = {
    "abs_max": AbsmaxObserver,
    "avg": AVGObserver,
    "hist": HistObserver,
    "kl": KLObserver,
    "mse": MSEObserver,
    "emd": EMDObserver,
}
_LARGEST = 127


def observe_inputs(model: nn.Layer, rows: Sequence[np.ndarray], observer: str) -> Dict[str, float]:
    """Path -> largest magnitude that 8 bits of the layer's input hold; layers that no row reached are left out."""
    factory = choose("activation_observer", observer, OBSERVERS)
    linears = find_linears(model)
    found: Dict[str, Any] = {}

    def watch(path: str, x: Tensor) -> None:
        if path not in found:
            found[path] = factory(quant_bits=8)._instance(linears[path])
        found[path](x.astype("float32").reshape([1, -1, x.shape[-1]]))

    with watched(linears, watch):
        run_rows(model, rows)
    return {path: float(one.scales()) for path, one in found.items()}


@contextmanager
def rounded_inputs(model: nn.Layer, scales: Dict[str, float]) -> Iterator[None]:
    """Round the inputs of linear layers to 8 bits inside a `with`, as an engine for 8-bit products does."""

    def watch(path: str, x: Tensor) -> Any:
        step = max(scales[path], 1e-12) / _LARGEST
        return (x / step).round().clip(-_LARGEST - 1, _LARGEST) * step

    with watched({path: layer for path, layer in find_linears(model).items() if path in scales}, watch):
        yield
