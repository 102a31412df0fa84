"""Model folders out: config.json and safetensors shards, in Paddle's or Hugging Face's layout, tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from paddle import nn

from paddle_sft.core.atomic import write_json
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.later import perform
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, numpy_type, write_tensors
from paddle_sft.models.config import CONFIG_NAME, to_hugging_face
from paddle_sft.models.hub import dtype_name, stored, unique_parameters
from paddle_sft.models.linears import features, find_linears
from paddle_sft.models.quantised import array_specs, is_in_codes, quantised_linears, schemes_of
from paddle_sft.models.renames import Piece, RenameTable, region_shape, rename_table, whole_shape
from paddle_sft.models.stored_schemes import in_config
from paddle_sft.models.weights import CHECKSUMS, INDEX_NAME, WEIGHTS_NAME
from paddle_sft.quant.choice import Schemes

LAYOUTS = ("paddle", "hf")
_FORMAT_TAG = {"paddle": "np", "hf": "pt"}  # what each library looks for in a file's metadata
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def write_model(folder: Path, model: nn.Layer, layout: str, max_shard_size: str = "5GB") -> None:
    """Write a model that is in memory; `folder` exists. Tied weights are written once."""
    parameters = unique_parameters(model)
    dtype = dtype_name(next(iter(parameters.values())))
    specs = [TensorSpec(name, FLOAT_TAGS[dtype_name(p)], tuple(p.shape)) for name, p in parameters.items()]
    layers = quantised_linears(model)
    if layers:
        if layout != "paddle":
            raise ArgumentError("a quantised model is written in Paddle's layout only; set format to paddle")
        encode = lambda path: {name: stored(array) for name, array in layers[path].arrays.items()}  # noqa: E731
        write_quantised(
            folder, model, specs, lambda spec: stored(parameters[spec.name]), schemes_of(model), encode, max_shard_size
        )
        return
    write_weights(folder, specs, lambda spec: stored(parameters[spec.name]), renames_of(model), layout, max_shard_size)
    write_config(folder, model.config, layout, dtype)


def write_quantised(
    folder: Path,
    model: nn.Layer,
    specs: Sequence[TensorSpec],
    produce: Callable[[TensorSpec], np.ndarray],
    schemes: Schemes,
    encode: Callable[[str], Dict[str, np.ndarray]],
    max_shard_size: str = "5GB",
) -> None:
    """Write a folder in which the weights of `schemes` are codes. One layer is asked for at a time.

    Args:
        model: of floats or of codes, with or without values; its config and the sizes of its linear layers are used.
        specs: of the tensors that stay floats; `produce` gives them. Weights of `schemes` among them are passed over.
        encode: path of a layer -> its arrays, named as in `Scheme.shapes`.
    """
    linears = find_linears(model)
    plain = [spec for spec in specs if not is_in_codes(spec.name, schemes)]
    coded = [spec for path, scheme in schemes.items() for spec in array_specs(path, scheme, features(linears[path]))]
    last: Tuple[str, Dict[str, np.ndarray]] = ("", {})

    def produce_any(spec: TensorSpec) -> np.ndarray:
        nonlocal last  # the arrays of a layer stand behind one another
        path, _, name = spec.name.rpartition(".")
        if path not in schemes or name in ("weight", "bias"):
            return produce(spec)
        if last[0] != path:
            last = (path, encode(path))
        return last[1][name]

    write_weights(folder, [*plain, *coded], produce_any, renames_of(model), "paddle", max_shard_size)
    tags = [spec.tag for spec in plain]
    dtype = next(dtype for dtype, tag in FLOAT_TAGS.items() if tag == max(sorted(set(tags)), key=tags.count))
    write_config(folder, model.config, "paddle", dtype, in_config(schemes))


def renames_of(model: nn.Layer) -> RenameTable:
    return rename_table(type(model), model.config)


def write_config(folder: Path, config: Any, layout: str, dtype: str, more: Optional[Dict[str, Any]] = None) -> None:
    """config.json (and generation_config.json stays with the tokenizer's files, copied)."""
    if layout == "hf":
        write_json(Path(folder) / CONFIG_NAME, to_hugging_face(config, dtype))
        return
    content = {**config.to_dict(), "dtype": dtype, "model_type": config.model_type, **(more or {})}
    write_json(Path(folder) / CONFIG_NAME, {key: content[key] for key in sorted(content)})


def write_weights(
    folder: Path,
    specs: Sequence[TensorSpec],
    produce: Callable[[TensorSpec], np.ndarray],
    renames: RenameTable,
    layout: str,
    max_shard_size: str = "5GB",
) -> None:
    """Write tensors given under Paddle's names and in Paddle's layout; `produce` is asked for one at a time.

    Every file's header carries the CRC-32 of its tensors, and the index repeats them: a changed byte and a shard of
    another model are found when the folder is read.
    """
    if layout == "hf":
        specs, produce = _in_hf_layout(specs, produce, renames)
    shards = _plan_shards(specs, parse_size(max_shard_size))
    weight_map: Dict[str, str] = {}
    checksums: List[Dict[str, str]] = []
    for number, shard in enumerate(shards, start=1):
        name = WEIGHTS_NAME if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        format_ = {"format": _FORMAT_TAG[layout]}
        checksums.append(write_tensors(Path(folder) / name, shard, produce, format_, checksums=True))
        weight_map.update({spec.name: name for spec in shard})
    if len(shards) > 1:
        total = sum(spec.num_bytes for spec in specs)
        perform(lambda: _write_index(Path(folder), total, checksums, weight_map))


def _write_index(folder: Path, num_bytes: int, checksums: Sequence[Dict[str, str]], weight_map: Dict[str, str]) -> None:
    of_all = {name: one for of_shard in checksums for name, one in of_shard.items()}
    metadata = {"total_size": num_bytes, CHECKSUMS: of_all}
    write_json(folder / INDEX_NAME, {"metadata": metadata, "weight_map": weight_map})


def _in_hf_layout(specs: Sequence[TensorSpec], produce: Callable, renames: RenameTable) -> tuple:
    """(specs, produce) of the same weights under Hugging Face's names and in its layout."""
    given = {spec.name: spec for spec in specs}
    names = dict.fromkeys(piece.hf for spec in specs for piece in renames.of_paddle[spec.name])
    outward = [_hf_spec(name, renames.of_hf[name], given) for name in names]
    last: Tuple[str, Any] = ("", None)

    def produce_once(name: str) -> np.ndarray:
        nonlocal last  # several tensors there may be parts of one here
        if last[0] != name:
            last = (name, produce(given[name]))
        return last[1]

    def produce_outward(spec: TensorSpec) -> np.ndarray:
        pieces = renames.of_hf[spec.name]
        if len(pieces) == 1 and pieces[0].is_whole:
            return pieces[0].turned(produce(given[pieces[0].paddle]))
        whole = np.empty(spec.shape, numpy_type(spec.tag))
        for piece in pieces:
            array = produce_once(piece.paddle)
            whole[piece.hf_at] = piece.turned(array[piece.paddle_at] if piece.paddle_at else array)
        return whole

    return outward, produce_outward


def _hf_spec(name: str, pieces: Sequence[Piece], given: Dict[str, TensorSpec]) -> TensorSpec:
    regions = []
    for piece in pieces:
        spec = given[piece.paddle]
        shape = region_shape(piece.paddle_at, spec.shape)
        turned = (*shape[:-2], shape[-1], shape[-2]) if piece.transposed and len(shape) > 1 else shape
        regions.append((piece.hf_at, turned))
    return TensorSpec(name, given[pieces[0].paddle].tag, whole_shape(regions))


def _plan_shards(specs: Sequence[TensorSpec], limit: int) -> List[List[TensorSpec]]:
    shards: List[List[TensorSpec]] = [[]]
    used = 0
    for spec in specs:
        if shards[-1] and used + spec.num_bytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(spec)
        used += spec.num_bytes
    return shards


def parse_size(text: str) -> int:
    """'5GB' -> 5 * 10**9 bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", str(text).upper())
    if not match or match.group(2) not in _UNITS:
        raise ArgumentError(f"max_shard_size is {text!r}; write a number with KB, MB or GB, such as 5GB")
    return max(1, int(float(match.group(1)) * _UNITS[match.group(2)]))
