"""Calibration: rows go through a model, or through one decoder layer after the other, and every linear layer is
watched."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.core.errors import ModelError
from paddle_sft.data.collate import collate
from paddle_sft.losses.supervised import TokenMeter
from paddle_sft.models.head import find_head, hidden_states
from paddle_sft.models.linears import find_linears

Watch = Callable[[str, Tensor], Any]
"""(path, input [..., in] of that linear layer) -> another input to compute with, or None."""


@contextmanager
def watched(layers: Dict[str, nn.Layer], watch: Watch) -> Iterator[None]:
    """Call `watch` for every input of these layers inside a `with`."""
    hooks = [layer.register_forward_pre_hook(_Hook(path, watch)) for path, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Hook:
    def __init__(self, path: str, watch: Watch) -> None:
        self._path = path
        self._watch = watch

    def __call__(self, layer: nn.Layer, inputs: Tuple[Tensor, ...]) -> Any:
        return self._watch(self._path, inputs[0])


def decoder_layers(model: nn.Layer) -> Dict[str, nn.Layer]:
    """Path -> decoder layer, in order."""
    config = model.config
    num = getattr(config, "num_hidden_layers", None) or config.n_layer
    for path, layers in model.named_sublayers():
        if isinstance(layers, nn.LayerList) and len(layers) == num:
            return {f"{path}.{number}": layer for number, layer in enumerate(layers)}
    raise ModelError(f"{type(model).__name__} has no list of {num} decoder layers; quantise it with method ptq")


def linears_of(layer: nn.Layer, path: str) -> Dict[str, nn.Layer]:
    """Path in the model -> linear layer inside the decoder layer at `path`."""
    return {f"{path}.{name}": linear for name, linear in find_linears(layer).items()}


@paddle.no_grad()
def run_rows(model: nn.Layer, rows: Sequence[np.ndarray]) -> None:
    """Every row [T] of ids through the model, one at a time."""
    for row in rows:
        _read(model, row)
        hidden_states(model, paddle.to_tensor(row[None].astype("int64")))


def _read(model: nn.Layer, row: np.ndarray) -> None:
    model.row_layout.set([[len(row)]])


class _Stop(Exception):
    """Raised where the first decoder layer begins: nothing behind it is wanted."""


@paddle.no_grad()
def walk_layers(
    model: nn.Layer,
    rows: Sequence[np.ndarray],
    watch: Watch,
    treat: Callable[[str, Dict[str, nn.Layer]], None],
) -> None:
    """Go through the decoder layers in order: every row through the layer under `watch`, then `treat` it, then every
    row again, so that the next layer meets what the treated ones give.

    Memory: the hidden states of all rows [T, H] float32, beside the model.

    Args:
        treat: called with a decoder layer's path and its linear layers, path in the model -> layer.
    """
    layers = decoder_layers(model)
    calls = _first_calls(model, rows, next(iter(layers.values())))
    for path, layer in layers.items():
        linears = linears_of(layer, path)
        with watched(linears, watch):
            for row, (args, kwargs) in zip(rows, calls):
                _read(model, row)
                layer(*args, **kwargs)
        treat(path, linears)
        for number, (row, (args, kwargs)) in enumerate(zip(rows, calls)):
            _read(model, row)
            output = layer(*args, **kwargs)
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            calls[number] = ((hidden, *args[1:]), kwargs)


def _first_calls(model: nn.Layer, rows: Sequence[np.ndarray], first: nn.Layer) -> List[Tuple[tuple, dict]]:
    """The arguments with which the model calls its first decoder layer, for each row."""
    calls: List[Tuple[tuple, dict]] = []
    forward = first.forward

    def catch(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs) if args else ((kwargs.pop("hidden_states"),), kwargs))
        raise _Stop

    first.forward = catch
    try:
        for row in rows:
            _read(model, row)
            try:
                hidden_states(model, paddle.to_tensor(row[None].astype("int64")))
            except _Stop:
                continue
    finally:
        first.forward = forward
    return calls


@paddle.no_grad()
def measure(model: nn.Layer, samples: Sequence[Any]) -> Dict[str, float]:
    """loss, perplexity, accuracy and tokens over the trained tokens of all samples."""
    meter = TokenMeter(find_head(model))
    for sample in samples:
        batch = collate([sample], 0)
        model.row_layout.set(batch.segment_lengths)
        meter.add(hidden_states(model, paddle.to_tensor(batch.input_ids)), batch)
    return meter.metrics(len(samples))
