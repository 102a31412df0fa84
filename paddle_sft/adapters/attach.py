"""Put an adapter into a model, in place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Sequence

from paddle import nn

from paddle_sft.adapters.base import AdaptedLinear
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.targets import Targets, choose_targets
from paddle_sft.models.hub import dtype_name
from paddle_sft.models.linears import features, find_linears


def attach(model: nn.Layer, method: str, config: Any, targets: Targets) -> Any:
    """Freeze the model and wrap the linear layers that `targets` names.

    Returns:
        the config with `target_modules` filled in: the paths that were wrapped.

    Raises:
        ArgumentError: a target that matches no layer.
    """
    linears = find_linears(model)
    chosen = choose_targets(list(linears), targets)
    wrap(model, method, config, {path: linears[path] for path in chosen})
    return replace(config, target_modules=tuple(chosen))


def wrap(model: nn.Layer, method: str, config: Any, layers: Dict[str, nn.Layer]) -> None:
    """Replace each layer by its adapted form; every other parameter of the model is frozen, except what the model names
    in `trained_whole`."""
    for parameter in model.parameters():
        parameter.stop_gradient = True
    for parameter in whole_parameters(model).values():
        parameter.stop_gradient = False
    for path, layer in layers.items():
        rows, columns = features(layer)
        delta = ADAPTERS[method].layer(rows, columns, config, dtype_name(layer.weight))
        parent, name = _parent(model, path)
        setattr(parent, name, AdaptedLinear(layer, delta))


def whole_parameters(model: nn.Layer) -> Dict[str, Any]:
    """Name -> parameter that is trained whole beside an adapter: a new head has no update to be small."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in getattr(model, "trained_whole", ())}


def _parent(model: nn.Layer, path: str) -> tuple:
    *parents, name = path.split(".")
    layer = model
    for part in parents:
        layer = getattr(layer, part)
    return layer, name


def expected_trainable(method: str, config: Any, shapes: Sequence[tuple]) -> int:
    """Trainable numbers by the method's formula over (in, out) of the adapted layers."""
    return sum(ADAPTERS[method].layer.count(rows, columns, config) for rows, columns in shapes)
