"""Put adapters into a model, in place, and choose which of them take part."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Dict, Iterator, Sequence

from paddle import nn

from paddle_sft.adapters.base import DEFAULT_NAME, AdaptedLinear, ModelFacts, adapted_linears, model_updates
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.targets import Targets, choose_targets
from paddle_sft.models.hub import dtype_name
from paddle_sft.models.linears import compute_dtype, features, find_linears


def attach(model: nn.Layer, method: str, config: Any, targets: Targets, name: str = DEFAULT_NAME) -> Any:
    """Freeze the model and put a fresh adapter on the linear layers that `targets` names, or on the model.

    Returns:
        the config with `target_modules` filled in: the paths that were wrapped.

    Raises:
        ArgumentError: a target that matches no layer.
    """
    linears = base_linears(model)
    chosen = choose_targets(list(linears), targets) if ADAPTERS[method].layer else ()
    config = replace(config, target_modules=tuple(chosen))
    wrap(model, method, config, {path: linears[path] for path in chosen}, name)
    for layer in adapted_linears(model, name).values():
        layer.updates[name].start(layer.base)
    if name in model_updates(model):
        model_updates(model)[name].start(model)
    return config


def wrap(model: nn.Layer, method: str, config: Any, layers: Dict[str, nn.Layer], name: str = DEFAULT_NAME) -> None:
    """Give each layer an update called `name`, and let only these take part. Every other parameter of the model is
    frozen, except what the model names in `trained_whole`."""
    for parameter in model.parameters():
        parameter.stop_gradient = True
    for parameter in whole_parameters(model).values():
        parameter.stop_gradient = False
    for path, layer in layers.items():
        rows, columns = features(layer)
        update = ADAPTERS[method].layer(rows, columns, config.for_path(path), compute_dtype(layer))
        _adapted(model, path).updates[name] = update
    if ADAPTERS[method].model is not None:
        _put_on_model(model, method, config, name)
    activate(model, name)


def _put_on_model(model: nn.Layer, method: str, config: Any, name: str) -> None:
    update = ADAPTERS[method].model(facts_of(model), config, dtype_name(next(iter(model.parameters()))))
    if not hasattr(model, "model_updates"):
        model.model_updates = nn.LayerDict()
    model.model_updates[name] = update
    update.install(model)


def activate(model: nn.Layer, *names: str) -> None:
    """Compute with these adapters, and no others; with none, the base model."""
    for layer in adapted_linears(model).values():
        layer.active = tuple(name for name in names if name in layer.updates)
    for name, update in model_updates(model).items():
        update.enabled = name in names


@contextmanager
def disabled(model: nn.Layer) -> Iterator[None]:
    """The base model inside a `with`; afterwards what took part before does so again."""
    linears, updates = adapted_linears(model).values(), model_updates(model).values()
    active, enabled = [layer.active for layer in linears], [update.enabled for update in updates]
    activate(model)
    try:
        yield
    finally:
        for layer, names in zip(linears, active):
            layer.active = names
        for update, was in zip(updates, enabled):
            update.enabled = was


def base_linears(model: nn.Layer) -> Dict[str, nn.Layer]:
    """Path -> linear layer of the base model, for every layer an adapter can wrap, wrapped or not."""
    bases = {id(layer.base): path for path, layer in adapted_linears(model).items()}
    inside = {id(one) for layer in adapted_linears(model).values() for one in layer.updates.sublayers()}
    found = {path: layer for path, layer in find_linears(model).items() if id(layer) not in inside}
    return {bases.get(id(layer), path): layer for path, layer in found.items()}


def _adapted(model: nn.Layer, path: str) -> AdaptedLinear:
    """The wrapper at a path, which is made if there is none yet."""
    parent, last = _parent(model, path)
    layer = getattr(parent, last)
    if not isinstance(layer, AdaptedLinear):
        layer = AdaptedLinear(layer)
        setattr(parent, last, layer)
    return layer


def _parent(model: nn.Layer, path: str) -> tuple:
    *parents, last = path.split(".")
    layer = model
    for part in parents:
        layer = getattr(layer, part)
    return layer, last


def whole_parameters(model: nn.Layer) -> Dict[str, Any]:
    """Name -> parameter that is trained whole beside an adapter: a new head has no update to be small."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in getattr(model, "trained_whole", ())}


def facts_of(model: nn.Layer) -> ModelFacts:
    """The base model's sizes."""
    config = model.config
    heads, layers = _first(config, "num_attention_heads", "n_head"), _first(config, "num_hidden_layers", "n_layer")
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return ModelFacts(*(int(n) for n in (config.hidden_size, layers, heads, groups, size, config.vocab_size)))


def _first(config: Any, *names: str) -> int:
    """PaddleNLP's Bloom and GPT-2 have names of their own."""
    return next(getattr(config, name) for name in names if hasattr(config, name))


def expected_trainable(method: str, config: Any, shapes: Dict[str, Sequence[int]], facts: ModelFacts) -> int:
    """Trainable numbers by the method's formula.

    Args:
        shapes: path -> (in, out) of the adapted layers.
    """
    one = ADAPTERS[method]
    found = sum(one.layer.count(*shape, config.for_path(path)) for path, shape in shapes.items()) if one.layer else 0
    return found + (one.model.count(facts, config) if one.model else 0)
