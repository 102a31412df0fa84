"""Model folders out: config.json and safetensors shards, in Paddle's or Hugging Face's layout, tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
from paddle import nn

from paddle_sft.core.atomic import write_json
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, write_tensors
from paddle_sft.models.config import CONFIG_NAME, to_hugging_face
from paddle_sft.models.hub import dtype_name, stored, unique_parameters
from paddle_sft.models.weights import INDEX_NAME, WEIGHTS_NAME, Rename, rename_table

LAYOUTS = ("paddle", "hf")
_FORMAT_TAG = {"paddle": "np", "hf": "pt"}  # what each library looks for in a file's metadata
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def write_model(folder: Path, model: nn.Layer, layout: str, max_shard_size: str = "5GB") -> None:
    """Write a model that is in memory; `folder` exists. Tied weights are written once."""
    parameters = unique_parameters(model)
    dtype = dtype_name(next(iter(parameters.values())))
    specs = [TensorSpec(name, FLOAT_TAGS[dtype_name(p)], tuple(p.shape)) for name, p in parameters.items()]
    write_weights(folder, specs, lambda spec: stored(parameters[spec.name]), renames_of(model), layout, max_shard_size)
    write_config(folder, model.config, layout, dtype)


def renames_of(model: nn.Layer) -> Dict[str, Rename]:
    return rename_table(type(model), model.config)


def write_config(folder: Path, config: Any, layout: str, dtype: str) -> None:
    """config.json (and generation_config.json stays with the tokenizer's files, copied)."""
    if layout == "hf":
        write_json(Path(folder) / CONFIG_NAME, to_hugging_face(config, dtype))
        return
    content = {**config.to_dict(), "dtype": dtype, "model_type": config.model_type}
    write_json(Path(folder) / CONFIG_NAME, {key: content[key] for key in sorted(content)})


def write_weights(
    folder: Path,
    specs: Sequence[TensorSpec],
    produce: Callable[[TensorSpec], np.ndarray],
    renames: Dict[str, Rename],
    layout: str,
    max_shard_size: str = "5GB",
) -> None:
    """Write tensors given under Paddle's names and in Paddle's layout; `produce` is asked for one at a time."""
    if layout == "hf":
        specs, produce = _in_hf_layout(specs, produce, renames)
    shards = _plan_shards(specs, parse_size(max_shard_size))
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = WEIGHTS_NAME if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(Path(folder) / name, shard, produce, {"format": _FORMAT_TAG[layout]})
        weight_map.update({spec.name: name for spec in shard})
    if len(shards) > 1:
        total = sum(spec.num_bytes for spec in specs)
        write_json(Path(folder) / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _in_hf_layout(specs: Sequence[TensorSpec], produce: Callable, renames: Dict[str, Rename]) -> tuple:
    original = {renames[spec.name].hf: spec for spec in specs}

    def transposed(spec: TensorSpec) -> bool:
        return renames[original[spec.name].name].transposed

    outward = [
        TensorSpec(hf, spec.tag, spec.shape[::-1] if renames[spec.name].transposed else spec.shape)
        for hf, spec in original.items()
    ]

    def produce_outward(spec: TensorSpec) -> np.ndarray:
        array = produce(original[spec.name])
        return array.T if transposed(spec) else array

    return outward, produce_outward


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
