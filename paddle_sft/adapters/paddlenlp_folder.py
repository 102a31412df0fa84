"""What PaddleNLP 3.0.0b4 writes into an adapter folder: a config, and arrays, read without running code of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, to_float32
from paddle_sft.models.pdparams import read_pdparams

_SAFETENSORS = "peft_model.safetensors"
_INDEX = "peft_model.safetensors.index.json"
MERGE = "merge it with PaddleNLP (its merge scripts), and use the merged model"


def read_config(folder: Path, name: str) -> Dict[str, Any]:
    """A folder's config.

    Raises:
        ModelError: not there or not readable, of a share of a run that was split, or of a run with trained biases.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {name}; copy it again") from error
    except ValueError as error:
        raise ModelError(f"{folder / name} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{folder / name} must hold an object")
    is_split = int(content.get("tensor_parallel_degree") or 1) > 1
    if is_split or any(folder.glob("*.tp[0-9]*.pdparams")) or any(folder.glob("*_tp[0-9]*.pdparams")):
        raise ModelError(
            f"{folder} holds the shares of a run split over devices (tensor parallelism); save it again in PaddleNLP "
            "with merge_tensor_parallel=True (or --merge_tensor_parallel_path)"
        )
    for key in ("trainable_bias", "enable_lora_list"):
        if content.get(key):
            raise ModelError(f"{folder / name}: {key} is {content[key]!r}, which has no counterpart here; {MERGE}")
    return content


def read_arrays(folder: Path, method: str) -> Dict[str, np.ndarray]:
    """Name -> array of a folder's weights; a .pdparams is read without running code of it.

    Raises:
        ModelError: not there, or damaged.
    """
    if (folder / _INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / _INDEX} is not a readable index: {error!r}; copy it again") from error
        files = [TensorFile(folder / Path(name).name) for name in names]
    elif (folder / _SAFETENSORS).is_file():
        files = [TensorFile(folder / _SAFETENSORS)]
    elif (folder / f"{method}_model_state.pdparams").is_file():
        return read_pdparams(folder / f"{method}_model_state.pdparams")
    else:
        raise ModelError(f"{folder} has no weights: {method}_model_state.pdparams or {_SAFETENSORS} was expected")
    return {name: np.asarray(file.read(name)) for file in files for name in file.specs}


def tag_as_stored(array: np.ndarray) -> str:
    """The type's name in safetensors; bfloat16 is kept as uint16."""
    return {"uint16": "BF16", "float16": "F16"}.get(str(array.dtype), "F32")


def as_float32(array: np.ndarray) -> np.ndarray:
    """The numbers that a stored array means."""
    return to_float32(array, tag_as_stored(array))
