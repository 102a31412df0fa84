"""A folder of PEFT as an adapter of ours, and back. No torch is needed for either."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.attach import facts_of
from paddle_sft.adapters.peft.catalogue import PROMPTS, READ, WRITTEN
from paddle_sft.adapters.peft.modules import Modules
from paddle_sft.adapters.peft.prompts import EMBEDDINGS, PromptTable, read_prompt, write_prompt
from paddle_sft.adapters.peft.table import Layers, Table
from paddle_sft.adapters.peft.tokens import TokenRows, read_tokens, write_tokens
from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorFile

PEFT_CONFIG = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
WRITTEN_AS = "0.21.2"
"""The version of PEFT that tests/parity compares with; PEFT asks a folder for its version where a meaning changed."""


def read_peft(folder: Path, network: Any) -> SavedAdapter:
    """Open a folder that PEFT wrote.

    Args:
        network: the base model, or an empty one (models.hub.build_empty): it gives the layers' names and shapes.

    Raises:
        ModelError: a method or a setting that is not available, weights of layers that the base has not, a pickle.
    """
    folder = Path(folder)
    content = _read_config(folder)
    kind = choose(f"peft_type in {folder / PEFT_CONFIG}", str(content.get("peft_type")), {**READ, **PROMPTS})
    kind.settings.require(content, str(folder / PEFT_CONFIG))
    if isinstance(kind, PromptTable):
        return _read_prompt(kind, content, folder, network)
    table, modules, file = kind, Modules(network), _open(folder)
    tokens = read_tokens(content, file, _PREFIX, modules, folder)
    layers, whole = _sort(file, table, modules, folder, tokens)
    method, config = table.read(content, layers)
    paths = tuple(path for path in modules.shapes if path in layers.of)
    arrays = {
        f"{path}.{weight.ours}": weight.back(layers.of[path][weight.theirs])
        for path in paths
        for weight in table.weights_of(path, modules)
        if weight.theirs in layers.of[path]
    }
    arrays.update({one.ours: one.back(layers.shared[one.theirs]) for one in table.shared})
    return SavedAdapter(
        folder,
        method,
        replace(config, target_modules=paths),
        {path: modules.shapes[path] for path in paths},
        Arrays({**arrays, **whole, **tokens.arrays}),
        {name: tuple(array.shape) for name, array in {**whole, **tokens.whole}.items()},
        new_rows=tokens.rows,
        facts=facts_of(network),
    )


def _read_prompt(table: PromptTable, content: Dict[str, Any], folder: Path, network: Any) -> SavedAdapter:
    file = _open(folder)
    strange = [name for name in file.specs if name != EMBEDDINGS]
    if strange or EMBEDDINGS not in file.specs:
        raise ModelError(f"{folder} must hold {EMBEDDINGS} alone, it holds {', '.join(file.specs) or 'nothing'}")
    empty = SavedAdapter(folder, "", None, {}, file, {}, facts=facts_of(network))
    return read_prompt(table, content, np.asarray(file.read(EMBEDDINGS)), empty)


def _read_config(folder: Path) -> Dict[str, Any]:
    try:
        content = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / PEFT_CONFIG} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{folder / PEFT_CONFIG} must hold an object")
    return content


def _open(folder: Path) -> TensorFile:
    if not (folder / PEFT_WEIGHTS).is_file():
        pickled = [path.name for path in (folder / "adapter_model.bin", folder / "adapter_model.pt") if path.is_file()]
        why = f"{pickled[0]} is a pickle, which may run code when it is read" if pickled else "there are no weights"
        raise ModelError(f"{folder} has no {PEFT_WEIGHTS} ({why}); save it again with PEFT, which writes safetensors")
    return TensorFile(folder / PEFT_WEIGHTS)


def _sort(
    file: TensorFile, table: Table, modules: Modules, folder: Path, tokens: TokenRows
) -> Tuple[Layers, Dict[str, np.ndarray]]:
    """(weights by layer, weights that were trained whole under our names), without those of tokens."""
    ends = {weight.theirs for weight in (*table.weights, *table.embedding)}
    layers: Dict[str, Dict[str, np.ndarray]] = {}
    shared: Dict[str, np.ndarray] = {}
    whole: Dict[str, np.ndarray] = {}
    strange: List[str] = []
    for name in (one for one in file.specs if one not in tokens.taken):
        inner = name[len(_PREFIX) :] if name.startswith(_PREFIX) else name
        module, end = _split(inner, ends)
        path = modules.ours(module) if end else ""
        if path in modules.shapes:
            layers.setdefault(path, {})[end] = np.asarray(file.read(name))
        elif any(name == one.theirs for one in table.shared):
            shared[name] = np.asarray(file.read(name))
        elif _is_untouched(inner, file.specs[name].shape, modules):
            continue
        elif not _take_whole(inner, file.read(name), modules, whole):
            strange.append(name)
    lacking = [
        f"{modules.theirs(path)}.{end}"
        for path, found in layers.items()
        for end in (weight.theirs for weight in table.weights_of(path, modules))
        if end not in found and end not in table.optional
    ]
    if strange or lacking or not (layers or shared):
        said = [f"{len(strange)} weights are of no layer of the base ({', '.join(strange[:3])})"] if strange else []
        said += [f"{len(lacking)} are missing ({', '.join(lacking[:3])})"] if lacking else []
        raise ModelError(
            f"{folder} does not fit the base model: {'; '.join(said) or 'it has no weights'}; "
            "give the base that it was trained on"
        )
    return Layers(layers, shared, modules), whole


def _split(name: str, ends: Any) -> Tuple[str, str]:
    """(module, end) of a weight's name; the end is empty where it is none of these."""
    found = next((end for end in ends if name.endswith("." + end)), "")
    return (name[: -len(found) - 1], found) if found else (name, "")


def _is_untouched(name: str, shape: Tuple[int, ...], modules: Modules) -> bool:
    """Whether it is the base's own embedding, which PEFT writes beside an update of it."""
    end = ".base_layer.weight"
    path = modules.ours(name[: -len(end)]) if name.endswith(end) else ""
    return path in modules.embeddings and tuple(shape) == tuple(modules.shapes[path])


def _take_whole(name: str, array: np.ndarray, modules: Modules, whole: Dict[str, np.ndarray]) -> bool:
    known = modules.renames.find_hf(name)
    pieces = modules.renames.of_hf.get(known, []) if known else []
    if len(pieces) != 1 or not pieces[0].is_whole:
        return False
    whole[pieces[0].paddle] = np.ascontiguousarray(pieces[0].turned(np.asarray(array)))
    return True


def peft_folder(
    saved: SavedAdapter, network: Any, base_name: Optional[str] = None
) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """(adapter_config.json, PEFT's name -> array) of an adapter.

    Raises:
        ArgumentError: PEFT has no such method, or no place for something that the adapter has.
        ModelError: a layer that transformers has not.
    """
    prompt = next((table for table in PROMPTS.values() if table.method == saved.method), None)
    if saved.method not in WRITTEN and prompt is None:
        able = ", ".join([*WRITTEN, *(table.method for table in PROMPTS.values())])
        raise ArgumentError(
            f"PEFT has no method {saved.method} (of those here it has {able}); merge the adapter instead"
        )
    _require_portable(saved, WRITTEN.get(saved.method))
    common = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "peft_version": WRITTEN_AS,
    }
    if prompt is not None:
        settings, arrays = write_prompt(prompt, saved)
        return {"peft_type": prompt.peft_type, **common, **settings}, arrays
    table, modules = WRITTEN[saved.method], Modules(network)
    saved = table.prepare(saved)
    names = {path: modules.theirs(path) for path in saved.shapes}
    arrays = {
        f"{_PREFIX}{names[path]}.{weight.theirs}": weight.out(np.asarray(saved.file.read(f"{path}.{weight.ours}")))
        for path in saved.shapes
        for weight in table.weights_of(path, modules)
        if f"{path}.{weight.ours}" in saved.file.specs
    }
    arrays.update({one.theirs: one.out(np.asarray(saved.file.read(one.ours))) for one in table.shared})
    for name in saved.whole:
        piece = modules.renames.of_paddle[name][0]
        arrays[_PREFIX + piece.hf] = np.ascontiguousarray(piece.turned(np.asarray(saved.file.read(name))))
    setting, rows = write_tokens(saved, modules, _PREFIX)
    arrays.update(rows)
    content = {
        "peft_type": table.peft_type,
        **common,
        "target_modules": shortest_targets(list(names.values()), [modules.theirs_of_any(p) for p in modules.shapes]),
        "modules_to_save": sorted(modules.renames.of_paddle[name][0].hf.rsplit(".", 1)[0] for name in saved.whole)
        or None,
        **table.write(saved, modules),
        **setting,
    }
    if table.has_fan_in_fan_out:
        content["fan_in_fan_out"] = any(path in modules.fan_in_fan_out for path in saved.shapes)
    return content, arrays


def _require_portable(saved: SavedAdapter, table: Optional[Table]) -> None:
    why = ""
    if saved.classes is not None:
        why = "it is a classifier's, with a head of its own"
    elif saved.new_rows is not None and (table is None or not table.has_token_rows):
        able = ", ".join(method for method, one in WRITTEN.items() if one.has_token_rows)
        why = f"it has rows for new tokens, which PEFT has beside {able} only"
    if why:
        raise ArgumentError(f"{saved.folder} can't become a folder of PEFT: {why}; merge it (paddle-sft merge)")


def shortest_targets(chosen: List[str], every: List[str]) -> List[str]:
    """target_modules that mean exactly `chosen`: last names where they say it, else whole names."""
    last = sorted({name.rsplit(".", 1)[-1] for name in chosen})
    meant = [name for name in every if name.rsplit(".", 1)[-1] in last]
    return last if sorted(meant) == sorted(chosen) else sorted(chosen)
