"""Layers of the base that are trained whole beside an adapter (PEFT's modules_to_save)."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Dict, List, Sequence

from paddle import nn

from paddle_sft.adapters.targets import names_path
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.hub import unique_parameters


def train_whole(model: nn.Layer, names: Sequence[str]) -> List[str]:
    """Let `attach` leave these layers trainable, each with everything in it; to be called before it.

    Args:
        names: as in lora_target_modules: the end of a path, or an expression that matches all of it. Of a tied pair
            either name means the one weight that both are.

    Returns:
        the names of the weights.

    Raises:
        ArgumentError: a name that matches no layer with weights.
    """
    layers = dict(model.named_sublayers())
    name_of = {id(parameter): name for name, parameter in unique_parameters(model).items()}
    found: Dict[str, None] = {}
    for name in names:
        inside = [layer for path, layer in layers.items() if names_path(name, path)]
        weights = [name_of[id(one)] for layer in inside for one in layer.parameters() if id(one) in name_of]
        if not weights:
            raise ArgumentError(_no_match(name, list(layers), bool(inside)))
        found.update(dict.fromkeys(weights))
    _add(model, found)
    return list(found)


def expect_whole(model: nn.Layer, shapes: Dict[str, Sequence[int]], place: str) -> None:
    """Make room for the weights that a saved adapter has trained whole.

    Raises:
        ModelError: the model has no weight of such a name and shape.
    """
    parameters = unique_parameters(model)
    for name, shape in shapes.items():
        if name not in parameters or tuple(parameters[name].shape) != tuple(shape):
            here = f"{list(parameters[name].shape)} here" if name in parameters else "not there"
            raise ModelError(
                f"the adapter in {place} was trained with {name} {list(shape)}, which is {here}; give the model it was "
                "trained on"
            )
    _add(model, shapes)


def _add(model: nn.Layer, names: Any) -> None:
    model.trained_whole = tuple(dict.fromkeys([*getattr(model, "trained_whole", ()), *names]))


def _no_match(name: str, paths: List[str], is_layer: bool) -> str:
    if is_layer:
        return f"lora_modules_to_save {name!r} is a layer without weights of its own that can be trained; leave it out"
    last_names = list(dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths))
    near = get_close_matches(name.rsplit(".", 1)[-1], last_names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(one for one in last_names if not one.isdigit())
    return f"lora_modules_to_save {name!r} matches no layer{hint} Layers here: {known}"
