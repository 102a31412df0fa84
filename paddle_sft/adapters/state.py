"""Adapter folders: adapter.safetensors and adapter.json, in and out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.adapters.attach import base_linears, facts_of, whole_parameters, wrap
from paddle_sft.adapters.base import DEFAULT_NAME, ModelFacts, Update, adapted_linears, model_updates
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.core.atomic import write_json
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.data.classes import Classes
from paddle_sft.models.hub import assign, stored
from paddle_sft.models.linears import features
from paddle_sft.models.vocabulary import NewRows, grow, read_rows, set_rows

ADAPTER_WEIGHTS = "adapter.safetensors"
ADAPTER_CONFIG = "adapter.json"
FORMAT_VERSION = 1
_MODEL = "model."
"""Begin of the names of what belongs to the model as a whole, not to one linear layer."""
_ROWS = ".new_rows"
"""End of the names of rows that the base model's embedding and head have not."""


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter folder, checked. Arrays are named path.parameter, e.g. llama.layers.0.self_attn.q_proj.lora_a."""

    folder: Path
    method: str
    config: Any
    shapes: Dict[str, Tuple[int, int]]
    """Path -> (in, out) of the base layer it was trained on."""
    file: TensorFile
    whole: Dict[str, Tuple[int, ...]]
    """Name -> shape of the weights that were trained whole (modules_to_save)."""
    classes: Optional[Classes] = None
    """Of a classifier's adapter."""
    new_rows: Optional[NewRows] = None
    """Rows of the embedding and the LM head for new tokens."""
    facts: Optional[ModelFacts] = None
    """Of the base; None in a folder of a method that doesn't need them."""

    def rows(self) -> Dict[str, Tuple[np.ndarray, str]]:
        """Parameter's name -> (its new rows, their type)."""
        names = [name for name in self.file.specs if name.endswith(_ROWS)]
        return {name[: -len(_ROWS)]: (self.file.read(name), self.file.specs[name].tag) for name in names}

    def update(self, path: str) -> Update:
        """The trained update of one layer, alone, in float32."""
        update = self._fresh(path)
        _fill(update, f"{path}.", self.file)
        update.eval()
        return update

    def _fresh(self, path: str) -> Update:
        return ADAPTERS[self.method].layer(*self.shapes[path], self.config.for_path(path), "float32")

    def expected(self) -> Iterator[Tuple[str, nn.Layer]]:
        """(begin of the names, layer without values) of everything the method has; for their names and shapes."""
        with paddle.LazyGuard():
            for path in self.shapes:
                yield f"{path}.", self._fresh(path)
            if ADAPTERS[self.method].model is not None:
                yield _MODEL, ADAPTERS[self.method].model(self.facts, self.config, "float32")


def _parts(model: nn.Layer, adapter: str) -> Iterator[Tuple[str, nn.Layer]]:
    """(begin of the names, layer) of everything that an adapter has in a model."""
    for path, layer in adapted_linears(model, adapter).items():
        yield f"{path}.", layer.updates[adapter]
    if adapter in model_updates(model):
        yield _MODEL, model_updates(model)[adapter]


def adapter_arrays(model: nn.Layer, adapter: str = DEFAULT_NAME) -> Dict[str, np.ndarray]:
    """path.parameter -> array, for every adapted layer of a model, and whatever else the base has not."""
    arrays = {
        begin + name: stored(value)
        for begin, part in _parts(model, adapter)
        for name, value in part.state_dict().items()
    }
    arrays.update({name: stored(parameter) for name, parameter in whole_parameters(model).items()})
    rows = getattr(model, "new_rows", None)
    if rows is not None:
        arrays.update({name + _ROWS: array for name, array in read_rows(model, rows).items()})
    return arrays


def save_adapter(folder: Path, model: nn.Layer, method: str, config: Any, adapter: str = DEFAULT_NAME) -> None:
    """Write the adapter called `adapter` of `model` into an existing folder."""
    shapes = {path: list(features(layer.base)) for path, layer in adapted_linears(model, adapter).items()}
    content = {
        "method": method,
        "format_version": FORMAT_VERSION,
        **{key: value for key, value in asdict(config).items() if key != "target_modules"},
        **_beyond_deltas(model),
        "base": {
            "model_type": model.config.model_type,
            "vocab_size": model.config.vocab_size,
            "linear_shapes": shapes,
            "facts": asdict(facts_of(model)),
        },
    }
    arrays = adapter_arrays(model, adapter)
    write_arrays(Path(folder) / ADAPTER_WEIGHTS, arrays, {"format": "paddle_sft"}, checksums=True)
    write_json(Path(folder) / ADAPTER_CONFIG, content)


def _beyond_deltas(model: nn.Layer) -> Dict[str, Any]:
    content: Dict[str, Any] = {}
    whole = whole_parameters(model)
    if whole:
        content["modules_to_save"] = {name: list(parameter.shape) for name, parameter in whole.items()}
    if hasattr(model, "classes"):
        content["classes"] = {"names": list(model.classes.names), "multi_label": model.classes.multi_label}
    if hasattr(model, "new_rows"):
        content["new_rows"] = asdict(model.new_rows)
    return content


def read_adapter(folder: Path) -> SavedAdapter:
    """Open an adapter folder.

    Raises:
        ModelError: no adapter there, another program's adapter, damaged, or weights that don't fit its config.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(_no_adapter(folder))
    try:
        content = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        method_name, base = content["method"], content["base"]
        shapes = {path: tuple(shape) for path, shape in base["linear_shapes"].items()}
        whole = {name: tuple(shape) for name, shape in content.get("modules_to_save", {}).items()}
        rows = NewRows(**content["new_rows"]) if "new_rows" in content else None
        facts = ModelFacts(**base["facts"]) if "facts" in base else None
        classes = content.get("classes")
        if classes is not None:
            classes = Classes(tuple(classes["names"]), classes["multi_label"], known=True)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG} is not a readable adapter config: {error!r}") from error
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{folder}: adapter format {content.get('format_version')}, this version reads {FORMAT_VERSION}; "
            "upgrade paddle_sft"
        )
    method = choose(f"the method in {folder / ADAPTER_CONFIG}", method_name, ADAPTERS)
    known = {field.name for field in fields(method.config)}
    config = method.config(
        **{key: value for key, value in content.items() if key in known}, target_modules=tuple(shapes)
    )
    file = TensorFile(folder / ADAPTER_WEIGHTS)
    saved = SavedAdapter(folder, method_name, config, shapes, file, whole, classes, rows, facts)
    _require_complete(saved)
    return saved


def load_adapter(model: nn.Layer, folder: Path, adapter: str = DEFAULT_NAME) -> SavedAdapter:
    """Attach a trained adapter to its base model, in place, under the name `adapter`.

    Raises:
        ModelError: the adapter was trained on another base (the shapes that differ are named), or for other classes.
    """
    saved = read_adapter(folder)
    _require_classes(saved, model)
    linears = base_linears(model)
    require_base(saved, {path: features(layer) for path, layer in linears.items()}, "the base model")
    wrap(model, saved.method, saved.config, {path: linears[path] for path in saved.shapes}, adapter)
    if saved.new_rows is not None:
        require_vocabulary(saved, int(model.config.vocab_size), "the base model")
        grow(model, saved.new_rows.first, saved.new_rows.end)
    fill_adapter(model, saved, adapter)
    return saved


def fill_adapter(model: nn.Layer, saved: SavedAdapter, adapter: str = DEFAULT_NAME) -> None:
    """Give `model`, which has the same layers adapted and the same vocabulary, all that the adapter's file holds."""
    for begin, part in _parts(model, adapter):
        _fill(part, begin, saved.file)
    for name, parameter in whole_parameters(model).items():
        if name in saved.whole:
            assign(parameter, saved.file.read(name), saved.file.specs[name].tag)
    if saved.new_rows is not None and hasattr(model, "new_rows"):
        set_rows(model, saved.new_rows, saved.rows())


def _require_classes(saved: SavedAdapter, model: nn.Layer) -> None:
    if saved.classes in (None, getattr(model, "classes", None)):
        return
    named = ", ".join(saved.classes.names[:8])
    raise ModelError(
        f"the adapter in {saved.folder} is a classifier's ({named}); use it in stage classification (with do_predict "
        "it labels texts), or merge it into its base"
    )


def require_base(saved: SavedAdapter, shapes: Dict[str, Tuple[int, int]], place: str) -> None:
    """Raise ModelError unless every layer the adapter needs is there with its shape."""
    problems: List[str] = []
    for path, shape in saved.shapes.items():
        if path not in shapes:
            problems.append(f"{path} is not there")
        elif tuple(shapes[path]) != shape:
            problems.append(f"{path} is {list(shapes[path])}, the adapter was trained on {list(shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"the adapter in {saved.folder} belongs to another base than {place}: {'; '.join(problems[:3])}{more}; "
            "give the model it was trained on"
        )


def require_vocabulary(saved: SavedAdapter, vocab_size: int, place: str) -> None:
    """Raise ModelError unless the base has as many tokens as it had when the adapter got its new rows."""
    rows = saved.new_rows
    if rows is not None and rows.base_size != vocab_size:
        raise ModelError(
            f"the adapter in {saved.folder} was trained with new tokens behind a base of {rows.base_size} tokens, and "
            f"{place} has {vocab_size}; give the model it was trained from"
        )


def _fill(part: nn.Layer, begin: str, file: TensorFile) -> None:
    for name, value in part.state_dict().items():
        assign(value, file.read(begin + name), file.specs[begin + name].tag)


def _require_complete(saved: SavedAdapter) -> None:
    expected = {
        begin + name: tuple(value.shape)
        for begin, part in saved.expected()
        for name, value in part.state_dict().items()
    }
    expected.update(saved.whole)
    found = {name: spec.shape for name, spec in saved.file.specs.items()}
    if saved.new_rows is not None:
        num = saved.new_rows.end - saved.new_rows.first
        expected.update({name: (num, *shape[1:]) for name, shape in found.items() if name.endswith(_ROWS)})
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not of this adapter" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])}, the config needs {list(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if problems:
        raise ModelError(f"{saved.folder}: the adapter's weights don't fit its config: {'; '.join(problems[:4])}")


def _no_adapter(folder: Path) -> str:
    if not folder.is_dir():
        return f"no adapter folder {folder}"
    if (folder / "adapter_config.json").is_file() or (folder / "lora_config.json").is_file():
        return f"{folder} is an adapter of PEFT or PaddleNLP; reading those is not available yet"
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder"
    return f"{folder} has no {ADAPTER_CONFIG} (found: {found}); name the output_dir or a checkpoint of a LoRA run"
