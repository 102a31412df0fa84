"""What an adapter folder holds, read and checked without a model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.adapters.base import ModelFacts, ModelUpdate, Update
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.fingerprint import Fingerprint, is_same
from paddle_sft.core.atomic import write_json
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.data.classes import Classes
from paddle_sft.models.hub import assign
from paddle_sft.models.split import part_of
from paddle_sft.models.vocabulary import NewRows
from paddle_sft.quant.choice import Schemes, from_list, to_list

ADAPTER_WEIGHTS = "adapter.safetensors"
ADAPTER_CONFIG = "adapter.json"
FORMAT_VERSION = 1
OF_MODEL = "model."
"""Begin of the names of what belongs to the model as a whole, not to one linear layer."""
NEW_ROWS = ".new_rows"
"""End of the names of rows that the base model's embedding and head have not."""
_BESIDE = ("method", "format_version", "modules_to_save", "classes", "new_rows", "scaled_positions", "base")
"""Keys of adapter.json that are not of the method."""
_FLOATS, _CODES = "fingerprint", "fingerprint_of_codes"
_OF_BASE = ("model_type", "vocab_size", _FLOATS, _CODES)


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
    scaled_positions: Optional[Dict[str, Any]] = None
    """Keys of the base's config.json that the run changed (see `models.long_context`)."""
    schemes: Schemes = field(default_factory=dict)
    """Path -> scheme of the base's layers that were quantised while it was trained."""
    base: Dict[str, Any] = field(default_factory=dict)
    """What else is known of the base: model_type, vocab_size, and the texts of its fingerprint."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the base."""
        floats, codes = (str(self.base.get(key) or "") for key in (_FLOATS, _CODES))
        return Fingerprint(floats, codes, self.schemes)

    def rows(self) -> Dict[str, Tuple[np.ndarray, str]]:
        """Parameter's name -> (its new rows, their type)."""
        names = [name for name in self.file.specs if name.endswith(NEW_ROWS)]
        return {name[: -len(NEW_ROWS)]: (self.file.read(name), self.file.specs[name].tag) for name in names}

    def update(self, path: str) -> Update:
        """The trained update of one layer, alone, in float32."""
        update = self._fresh(path)
        fill_part(update, f"{path}.", self.file)
        if ADAPTERS[self.method].model is not None:
            self.part_of_model.share(update)
        update.eval()
        return update

    @cached_property
    def part_of_model(self) -> ModelUpdate:
        part = ADAPTERS[self.method].model(self.facts, self.config, "float32")
        fill_part(part, OF_MODEL, self.file)
        return part

    def _fresh(self, path: str) -> Update:
        return ADAPTERS[self.method].layer(*self.shapes[path], self.config.for_path(path), "float32")

    def expected(self) -> Iterator[Tuple[str, nn.Layer]]:
        """(begin of the names, layer without values) of everything the method has; for their names and shapes."""
        with paddle.LazyGuard():
            for path in self.shapes:
                yield f"{path}.", self._fresh(path)
            if ADAPTERS[self.method].model is not None:
                yield OF_MODEL, ADAPTERS[self.method].model(self.facts, self.config, "float32")


def read_own(folder: Path) -> SavedAdapter:
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
        positions = dict(content["scaled_positions"]) if "scaled_positions" in content else None
        schemes = from_list(base.get("quantised", []))
        classes = content.get("classes")
        if classes is not None:
            classes = Classes(tuple(classes["names"]), classes["multi_label"], known=True)
    except (ValueError, KeyError, TypeError, AttributeError, ArgumentError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG} is not a readable adapter config: {error!r}") from error
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{folder}: adapter format {content.get('format_version')}, this version reads {FORMAT_VERSION}; "
            "upgrade paddle_sft"
        )
    choose(f"the method in {folder / ADAPTER_CONFIG}", method_name, ADAPTERS)
    config = _read_numbers(method_name, content, tuple(shapes), folder / ADAPTER_CONFIG)
    file = TensorFile(folder / ADAPTER_WEIGHTS)
    known_base = {key: base[key] for key in _OF_BASE if key in base}
    saved = SavedAdapter(
        folder, method_name, config, shapes, file, whole, classes, rows, facts, positions, schemes, known_base
    )
    require_complete(saved)
    return saved


def _read_numbers(method: str, content: Dict[str, Any], paths: Tuple[str, ...], place: Path) -> Any:
    """The method's config; a key that isn't there has its default.

    Raises:
        ModelError: a key or a value that it can't have.
    """
    kind = ADAPTERS[method].config
    known = {field.name for field in fields(kind)} - {"target_modules"}
    strange = [key for key in content if key not in (*known, *_BESIDE)]
    if strange:
        raise ModelError(
            f"{place} holds {', '.join(map(repr, strange))}, and adapter {method} has no such key (it has: "
            f"{', '.join(sorted(known)) or 'none'}); correct it, or copy the file again"
        )
    try:
        return kind(**{key: value for key, value in content.items() if key in known}, target_modules=paths)
    except (ValueError, TypeError, AttributeError, ArgumentError) as error:
        raise ModelError(f"{place} holds a value that adapter {method} can't have: {error}") from error


def write_saved(folder: Path, saved: SavedAdapter) -> None:
    """Write an adapter into an existing folder, as `read_own` reads it."""
    content: Dict[str, Any] = {
        "method": saved.method,
        "format_version": FORMAT_VERSION,
        **{key: value for key, value in asdict(saved.config).items() if key != "target_modules"},
    }
    if saved.whole:
        content["modules_to_save"] = {name: list(shape) for name, shape in saved.whole.items()}
    if saved.classes is not None:
        content["classes"] = {"names": list(saved.classes.names), "multi_label": saved.classes.multi_label}
    if saved.new_rows is not None:
        content["new_rows"] = asdict(saved.new_rows)
    if saved.scaled_positions:
        content["scaled_positions"] = saved.scaled_positions
    content["base"] = {
        **saved.base,
        "linear_shapes": {path: list(shape) for path, shape in saved.shapes.items()},
        **({"facts": asdict(saved.facts)} if saved.facts is not None else {}),
        **({"quantised": to_list(saved.schemes)} if saved.schemes else {}),
    }
    arrays = {name: np.asarray(saved.file.read(name)) for name in saved.file.specs}
    write_arrays(Path(folder) / ADAPTER_WEIGHTS, arrays, {"format": "paddle_sft"}, checksums=True)
    write_json(Path(folder) / ADAPTER_CONFIG, content)


def fill_part(part: nn.Layer, begin: str, file: Any) -> None:
    """Give a layer all that a file holds under the names that begin so."""
    for name, value in part.state_dict().items():
        whole = file.read(begin + name)
        part_here = part_of(value)
        assign(value, whole if part_here is None else part_here.take(whole), file.specs[begin + name].tag)


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


def known_base(found: Fingerprint) -> Dict[str, str]:
    """What an adapter folder says of its base's fingerprint."""
    return {key: text for key, text in ((_FLOATS, found.floats), (_CODES, found.codes)) if text}


def require_fingerprint(saved: SavedAdapter, found: Fingerprint, place: str, allow_other_base: bool) -> None:
    """Raise ModelError if the base is another one than the adapter was trained on, as far as both are known."""
    if allow_other_base or is_same(saved.fingerprint, found):
        return
    raise ModelError(
        f"the adapter in {saved.folder} was trained on another base than {place}: the shapes are the same, the weights "
        "are not; give the model it was trained on, or set allow_other_base to true to put it on this one all the same"
    )


def require_vocabulary(saved: SavedAdapter, vocab_size: int, place: str) -> None:
    """Raise ModelError unless the base has as many tokens as it had when the adapter got its new rows."""
    rows = saved.new_rows
    if rows is not None and rows.base_size != vocab_size:
        raise ModelError(
            f"the adapter in {saved.folder} was trained with new tokens behind a base of {rows.base_size} tokens, and "
            f"{place} has {vocab_size}; give the model it was trained from"
        )


def require_complete(saved: SavedAdapter) -> None:
    """Raise ModelError unless the file holds what the config needs, and nothing else."""
    expected = {
        begin + name: tuple(value.shape)
        for begin, part in saved.expected()
        for name, value in part.state_dict().items()
    }
    expected.update(saved.whole)
    found = {name: spec.shape for name, spec in saved.file.specs.items()}
    if saved.new_rows is not None:
        num = saved.new_rows.end - saved.new_rows.first
        expected.update({name: (num, *shape[1:]) for name, shape in found.items() if name.endswith(NEW_ROWS)})
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
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder"
    return f"{folder} has no {ADAPTER_CONFIG} (found: {found}); name the output_dir or a checkpoint of an adapter's run"
