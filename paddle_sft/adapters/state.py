"""Adapter folders: adapter.safetensors and adapter.json, in and out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.attach import base_layers, facts_of, keep_parts, whole_parameters, wrap
from paddle_sft.adapters.base import DEFAULT_NAME, adapted_linears, model_updates
from paddle_sft.adapters.fingerprint import fingerprint_of, is_same
from paddle_sft.adapters.foreign import foreign_reader
from paddle_sft.adapters.saved import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    NEW_ROWS,
    OF_MODEL,
    SavedAdapter,
    fill_part,
    known_base,
    read_own,
    require_base,
    require_complete,
    require_fingerprint,
    require_vocabulary,
    write_saved,
)
from paddle_sft.adapters.whole import expect_whole
from paddle_sft.core.errors import ModelError
from paddle_sft.models.hub import assign, stored
from paddle_sft.models.linears import features
from paddle_sft.models.long_context import extend
from paddle_sft.models.quantised import schemes_of
from paddle_sft.models.trained_rows import train_rows
from paddle_sft.models.vocabulary import grow, read_rows, set_rows

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "SavedAdapter",
    "adapter_arrays",
    "adapter_tensors",
    "fill_adapter",
    "for_use",
    "load_adapter",
    "read_adapter",
    "read_if_own",
    "require_base",
    "require_vocabulary",
    "save_adapter",
]


def _parts(model: nn.Layer, adapter: str) -> Iterator[Tuple[str, nn.Layer]]:
    """(begin of the names, layer) of everything that an adapter has in a model."""
    for path, layer in adapted_linears(model, adapter).items():
        yield f"{path}.", layer.updates[adapter]
    if adapter in model_updates(model):
        yield OF_MODEL, model_updates(model)[adapter]


def adapter_tensors(model: nn.Layer, adapter: str = DEFAULT_NAME) -> Dict[str, paddle.Tensor]:
    """path.parameter -> tensor, for every adapted layer that this rank holds, and what is trained whole."""
    tensors = {
        begin + name: value for begin, part in _parts(model, adapter) for name, value in part.state_dict().items()
    }
    return {**tensors, **whole_parameters(model)}


def adapter_arrays(model: nn.Layer, adapter: str = DEFAULT_NAME) -> Dict[str, np.ndarray]:
    """path.parameter -> array, for every adapted layer of a model, and whatever else the base has not."""
    arrays = {name: stored(value) for name, value in adapter_tensors(model, adapter).items()}
    rows = getattr(model, "new_rows", None)
    if rows is not None:
        arrays.update({name + NEW_ROWS: array for name, array in read_rows(model, rows).items()})
    return arrays


def for_use(model: nn.Layer, config: Any, adapter: str = DEFAULT_NAME) -> Tuple[Any, Dict[str, np.ndarray]]:
    """The config and the arrays that inference needs: the same, or fewer (a prefix without the MLP that made it)."""
    arrays = adapter_arrays(model, adapter)
    if adapter not in model_updates(model):
        return config, arrays
    config, state = model_updates(model)[adapter].for_use(config)
    arrays = {name: array for name, array in arrays.items() if not name.startswith(OF_MODEL)}
    return config, {**arrays, **{OF_MODEL + name: stored(value) for name, value in state.items()}}


def save_adapter(
    folder: Path,
    model: nn.Layer,
    method: str,
    config: Any,
    adapter: str = DEFAULT_NAME,
    arrays: Optional[Dict[str, np.ndarray]] = None,
) -> None:
    """Write the adapter called `adapter` of `model` into an existing folder.

    Args:
        arrays: what `adapter_arrays` of the whole model would be, where this rank holds a share of it.
    """
    arrays = adapter_arrays(model, adapter) if arrays is None else arrays
    wanted = set(config.target_modules)
    shapes = {path: features(layer) for path, layer in base_layers(model).items() if path in wanted}
    whole = whole_parameters(model)
    base = {"model_type": model.config.model_type, "vocab_size": model.config.vocab_size}
    saved = SavedAdapter(
        Path(folder),
        method,
        config,
        shapes,
        Arrays(arrays),
        {name: tuple(parameter.shape) for name, parameter in whole.items()},
        getattr(model, "classes", None),
        getattr(model, "new_rows", None),
        facts_of(model),
        getattr(model, "scaled_positions", None),
        schemes_of(model),
        {**base, **known_base(model.base_fingerprint)},
    )
    write_saved(folder, saved)


def read_adapter(folder: Path, network: Any = None) -> SavedAdapter:
    """Open an adapter folder, of this suite, of PEFT or of PaddleNLP.

    Args:
        network: the base model, or an empty one (models.hub.build_empty). Folders of other programs need it, for the
            names of its layers.

    Raises:
        ModelError: no adapter there, damaged, another base's, or weights that don't fit its config.
    """
    folder = Path(folder)
    reader = None if (folder / ADAPTER_CONFIG).is_file() else foreign_reader(folder)
    if reader is None:
        return read_own(folder)
    if network is None:
        raise ModelError(
            f"{folder} is an adapter of another program; here one of this suite is needed. Make one of it: paddle-sft "
            f"export --format paddle_sft --model_name_or_path BASE --lora_path {folder} --output_path FOLDER"
        )
    try:
        saved = reader(folder, network)
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise ModelError(
            f"{folder} is an adapter of another program, and its config holds a value that can't be read: {error!r}; "
            "copy it again, or save it again with the program that wrote it"
        ) from error
    require_complete(saved)
    return saved


def read_if_own(folder: Path) -> Optional[SavedAdapter]:
    """The adapter of a folder of this suite; None for a folder of another program, which has no classes or quantised
    layers to tell of, and whose rows for tokens need the base to be read.

    Raises:
        ModelError: no adapter there, or damaged.
    """
    is_foreign = not (Path(folder) / ADAPTER_CONFIG).is_file() and foreign_reader(folder) is not None
    return None if is_foreign else read_own(Path(folder))


def load_adapter(
    model: nn.Layer, folder: Path, adapter: str = DEFAULT_NAME, allow_other_base: bool = False
) -> SavedAdapter:
    """Attach a trained adapter to its base model, in place, under the name `adapter`.

    Args:
        allow_other_base: take a base whose layers have the same shapes and other weights.

    Raises:
        ModelError: the adapter was trained on another base (the shapes that differ are named), or for other classes.
    """
    saved = read_adapter(folder, model)
    _require_classes(saved, model)
    layers = base_layers(model)
    require_base(saved, {path: features(layer) for path, layer in layers.items()}, "the base model")
    require_vocabulary(saved, int(model.config.vocab_size), "the base model")
    require_fingerprint(saved, fingerprint_of(model), "the base model", allow_other_base)
    _require_room(saved, model, adapter)
    if saved.new_rows is not None:
        grow(model, saved.new_rows.first, saved.new_rows.end, reset=False)
    if saved.classes is None:
        expect_whole(model, saved.whole, str(saved.folder))
    if saved.new_rows is not None:
        train_rows(model)
    wrap(model, saved.method, saved.config, {path: layers[path] for path in saved.shapes}, adapter)
    fill_adapter(model, saved, adapter)
    keep_parts(model, adapter)
    extend(model, saved.scaled_positions or {})
    return saved


def require_same_base(model: nn.Layer, saved: SavedAdapter) -> None:
    """Raise ModelError unless the adapted `model` has the base of a saved adapter, as far as both are known."""
    place = "that of this run"
    layers = {path: layer for path, layer in base_layers(model).items() if path in saved.shapes}
    require_base(saved, {path: features(layer) for path, layer in layers.items()}, place)
    if not is_same(saved.fingerprint, model.base_fingerprint):
        raise ModelError(
            f"the adapter in {saved.folder} was trained on another base than {place}: the shapes are the same, the "
            "weights are not; restore model_name_or_path, or start afresh with another output_dir or "
            "overwrite_output_dir true"
        )


def fill_adapter(model: nn.Layer, saved: SavedAdapter, adapter: str = DEFAULT_NAME) -> None:
    """Give `model`, which has the same layers adapted and the same vocabulary, all that the adapter's file holds."""
    for begin, part in _parts(model, adapter):
        fill_part(part, begin, saved.file)
    for name, parameter in whole_parameters(model).items():
        if name in saved.whole:
            assign(parameter, saved.file.read(name), saved.file.specs[name].tag)
    if saved.new_rows is not None and hasattr(model, "new_rows"):
        set_rows(model, saved.new_rows, saved.rows())


def _require_room(saved: SavedAdapter, model: nn.Layer, adapter: str) -> None:
    """Several adapters share a base as long as none of them changes a weight of it."""
    linears = adapted_linears(model).values()
    others = {name for layer in linears for name in layer.updates} | set(model_updates(model))
    changes = saved.whole or saved.new_rows or whole_parameters(model) or hasattr(model, "new_rows")
    if others - {adapter} and changes:
        raise ModelError(
            f"the adapter in {saved.folder} can't share the base with {', '.join(sorted(others - {adapter}))}: one of "
            "them has weights of the base that it trained whole, or rows for new tokens, and they have one place for "
            "all; merge it into the base, or load each of them onto a base of its own"
        )


def _require_classes(saved: SavedAdapter, model: nn.Layer) -> None:
    if saved.classes in (None, getattr(model, "classes", None)):
        return
    named = ", ".join(saved.classes.names[:8])
    raise ModelError(
        f"the adapter in {saved.folder} is a classifier's ({named}); use it in stage classification (with do_predict "
        "it labels texts), or merge it into its base"
    )
