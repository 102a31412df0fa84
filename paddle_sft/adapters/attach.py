"""Put adapters into a model, in place, and choose which of them take part."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Dict, Iterator, Sequence

from paddle import nn

from paddle_sft.adapters.base import DEFAULT_NAME, AdaptedLinear, Delta, ModelFacts, adapted_linears, model_updates
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.fingerprint import fingerprint_of
from paddle_sft.adapters.targets import ALL_LINEAR, Targets, names_path
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.head import find_head
from paddle_sft.models.hub import dtype_name, unique_parameters
from paddle_sft.models.linears import compute_dtype, features, find_linears, is_elsewhere, low_rank_of


def attach(model: nn.Layer, method: str, config: Any, targets: Targets, name: str = DEFAULT_NAME) -> Any:
    """Freeze the model and put a fresh adapter on the linear layers that `targets` names, or on the model.

    Returns:
        the config with `target_modules` filled in: the paths that were wrapped.

    Raises:
        ArgumentError: a target that matches no layer.
    """
    linears = {**_free_linears(model), **_named_embedding(model, targets)}
    config = config.on(linears, targets) if ADAPTERS[method].layer else replace(config, target_modules=())
    wrap(model, method, config, {path: linears[path] for path in config.target_modules}, name)
    for layer in adapted_linears(model, name).values():
        layer.updates[name].start(layer.base)
    keep_parts(model, name)
    if name in model_updates(model):
        model_updates(model)[name].start(model)
    return config


def wrap(model: nn.Layer, method: str, config: Any, layers: Dict[str, nn.Layer], name: str = DEFAULT_NAME) -> None:
    """Give each layer an update called `name`, and let only these take part. Every other parameter of the model is
    frozen, except what the model names in `trained_whole`."""
    if not hasattr(model, "base_fingerprint"):
        model.base_fingerprint = fingerprint_of(model)  # now, while nothing has changed a weight
    for parameter in model.parameters():
        parameter.stop_gradient = True
    rows = model.trained_rows.parameters() if hasattr(model, "trained_rows") else []
    for parameter in [*whole_parameters(model).values(), *rows]:
        parameter.stop_gradient = False
    for number, (path, layer) in enumerate(layers.items()):
        rows, columns = features(layer)
        update = _layer_class(model, method, layer)(rows, columns, config.for_path(path), compute_dtype(layer))
        update.number = number
        if is_elsewhere(layer):
            continue  # its first values were drawn all the same: the others' are those of one process
        _adapted(model, path).updates[name] = update
    if ADAPTERS[method].model is not None:
        _put_on_model(model, method, config, name)
    activate(model, name)


def keep_parts(model: nn.Layer, name: str) -> None:
    """Where ranks have parts of the layers, let each keep what goes with them of an adapter that has its values.

    Raises:
        ArgumentError: a layer on which the method can't be split.
    """
    for layer in adapted_linears(model, name).values():
        low_rank = low_rank_of(layer.base)
        if low_rank is not None:
            layer.updates[name].split(low_rank)


def _layer_class(model: nn.Layer, method: str, layer: nn.Layer) -> Any:
    """The method's update for this kind of layer.

    Raises:
        ArgumentError: an embedding, where the method has none for it, or where the head is the same weight.
    """
    one = ADAPTERS[method]
    if not isinstance(layer, nn.Embedding):
        return one.layer
    if hasattr(model, "share"):
        raise ArgumentError(
            "lora_target_modules names the embedding, and no update of it goes with a model that is split over ranks "
            "yet; leave it out, or use data parallelism or sharding stage1 or stage2"
        )
    if one.embedding is None:
        able = ", ".join(name for name, other in ADAPTERS.items() if other.embedding)
        raise ArgumentError(
            f"lora_target_modules names the embedding, which adapter {method} has no update for; {able} has. Leave it "
            "out, or name it in lora_modules_to_save to train it whole"
        )
    if hasattr(model, "lm_head") and find_head(model).weight is layer.weight:
        raise ArgumentError(
            "lora_target_modules names the embedding, and this model's LM head is the same weight: an update of one "
            "would be merged into both. Name it in lora_modules_to_save, which trains both as one"
        )
    return one.embedding


def _put_on_model(model: nn.Layer, method: str, config: Any, name: str) -> None:
    update = ADAPTERS[method].model(facts_of(model), config, dtype_name(next(iter(model.parameters()))))
    if not hasattr(model, "model_updates"):
        model.model_updates = nn.LayerDict()
    if name in model.model_updates:
        model.model_updates[name].enabled = False  # what it put into the forward stays there
    model.model_updates[name] = update
    for layer in adapted_linears(model, name).values():
        update.share(layer.updates[name])
    if hasattr(model, "share"):
        update.split(model.share)
    update.install(model)


def activate(model: nn.Layer, *names: str) -> None:
    """Compute with these adapters, and no others; with none, the base model.

    Raises:
        ArgumentError: several, of which one doesn't only add to a layer's output.
    """
    layers = adapted_linears(model)
    for path, layer in layers.items():
        here = [name for name in names if name in layer.updates]
        alone = [name for name in here if not isinstance(layer.updates[name], Delta)]
        if len(here) > 1 and alone:
            raise ArgumentError(
                f"{' and '.join(here)} can't be active at once: {alone[0]} doesn't add to what {path} computes, it "
                "changes it; activate one of them, or merge one into the base"
            )
    for layer in layers.values():
        layer.active = tuple(name for name in names if name in layer.updates)
    alone = [name for name, update in model_updates(model).items() if name in names and update.stands_alone]
    if len(alone) > 1:
        raise ArgumentError(
            f"adapters {' and '.join(alone)} put virtual tokens before a text or edit its hidden states, and no two "
            "such can take part together; activate one of them"
        )
    for name, update in model_updates(model).items():
        update.enabled = name in names


@contextmanager
def disabled(model: nn.Layer) -> Iterator[None]:
    """The base model inside a `with`; afterwards what took part before does so again.

    Raises:
        ModelError: weights of the base itself were trained beside the adapter.
    """
    whole = [name for name in whole_parameters(model) if not hasattr(model, "classes")]
    if whole or hasattr(model, "trained_rows"):
        raise ModelError(
            "the base can't be had without its adapter: beside it "
            + (f"{', '.join(whole[:3])} was trained whole" if whole else "rows for new tokens were trained")
            + "; load the base once more"
        )
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


def base_layers(model: nn.Layer) -> Dict[str, nn.Layer]:
    """The same, and the embedding of the tokens."""
    embedding = model.get_input_embeddings()
    base = embedding.base if isinstance(embedding, AdaptedLinear) else embedding
    paths = [path for path, layer in model.named_sublayers() if layer is embedding]
    return {**({path: base for path in paths[:1] if isinstance(base, nn.Embedding)}), **base_linears(model)}


def _free_linears(model: nn.Layer) -> Dict[str, nn.Layer]:
    """The linear layers that aren't trained whole."""
    whole = {id(parameter) for parameter in whole_parameters(model).values()}
    linears = base_linears(model).items()
    return {path: layer for path, layer in linears if not any(id(one) in whole for one in layer.parameters())}


def _named_embedding(model: nn.Layer, targets: Targets) -> Dict[str, nn.Layer]:
    """Path -> embedding, where the user names it: by default an adapter is on linear layers only."""
    if targets is None or targets == ALL_LINEAR:
        return {}
    asked = [targets] if isinstance(targets, str) else list(targets)
    layers = {path: layer for path, layer in base_layers(model).items() if isinstance(layer, nn.Embedding)}
    return {path: layer for path, layer in layers.items() if any(names_path(name, path) for name in asked)}


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
    parameters = unique_parameters(model)
    return {name: parameters[name] for name in getattr(model, "trained_whole", ())}


def facts_of(model: nn.Layer) -> ModelFacts:
    """The base model's sizes."""
    config = model.config
    heads, layers = _first(config, "num_attention_heads", "n_head"), _first(config, "num_hidden_layers", "n_layer")
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = _embedding_width(model)
    width = 0 if width == config.hidden_size else width
    return ModelFacts(*(int(n) for n in (config.hidden_size, layers, heads, groups, size, config.vocab_size, width)))


def _embedding_width(model: nn.Layer) -> int:
    """Numbers of a word vector, wherever the vectors are."""
    if hasattr(model, "whole_shapes"):
        return model.whole_shapes[model.embedding_name][-1]
    return int(model.get_input_embeddings().weight.shape[-1])


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
