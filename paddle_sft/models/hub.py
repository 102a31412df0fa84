"""PaddleNLP models and tokenizers from a folder, and back to a folder, exactly."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import paddle
from paddle import nn

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, convert
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import read_config, to_paddlenlp
from paddle_sft.models.family import find_named
from paddle_sft.models.fast import use_cpu_forms
from paddle_sft.models.packed import read_by_segments
from paddle_sft.models.weights import ModelWeights, rename_table


@dataclass
class LoadedModel:
    """A model, and what is needed to write it again."""

    model: nn.Layer
    config: Dict[str, Any]
    """config.json as `models.config.read_config` gave it."""
    place: str
    """The folder or name the user gave."""
    is_hugging_face: bool


def load_model(folder: Path, dtype: str) -> LoadedModel:
    """Load a causal language model; every weight of the model comes from the folder, and every tensor there is used.

    Args:
        folder: a Paddle or a Hugging Face model folder; which one is decided by looking at the names.
        dtype: float32, bfloat16 or float16 for the parameters.

    Raises:
        ModelError: weights missing, left over, of another shape; damaged files; a family that would not be exact.
    """
    config = read_config(folder)
    model = build_empty(config, dtype)
    weights = ModelWeights(folder, rename_table(type(model), model.config))
    parameters = unique_parameters(model)
    require_complete(weights, model, Path(folder))
    for name, parameter in parameters.items():
        assign(parameter, weights.read(name), weights.spec(name).tag)
    model.eval()
    return LoadedModel(model, config, str(folder), weights.is_hugging_face)


def build_empty(config: Dict[str, Any], dtype: str) -> nn.Layer:
    """The model of a config with parameters that hold no memory yet; `assign` fills them."""
    with _default_dtype(dtype), paddle.LazyGuard(), _without_initialisation():
        return _build(config)


def build_from_scratch(config: Dict[str, Any], dtype: str, seed: int) -> nn.Layer:
    """A freshly initialised model (PaddleNLP's initialisation of the family), the same for the same seed."""
    paddle.seed(seed)
    np.random.seed(seed % 2**32)
    with _default_dtype(dtype):
        model = _build(config)
    model.eval()
    return model


def _build(config: Dict[str, Any]) -> nn.Layer:
    family = FAMILIES[config["model_type"]]
    model = find_named(family.model_class)(to_paddlenlp(config))
    if family.mend:
        find_named(family.mend)(model, config)
    use_cpu_forms(model, family.norms)
    read_by_segments(model, config)
    return model


def assign(parameter: paddle.Tensor, array: np.ndarray, tag: str) -> None:
    """Give a parameter (empty or not) its value, converting between floating types if needed."""
    parameter.set_value(np.ascontiguousarray(convert(array, tag, FLOAT_TAGS[dtype_name(parameter)])))


def dtype_name(tensor: paddle.Tensor) -> str:
    """float32, bfloat16 or float16, as the user writes it."""
    return str(tensor.dtype).rsplit(".", 1)[-1]


def stored(tensor: paddle.Tensor) -> np.ndarray:
    """A tensor as the array a safetensors file stores (bfloat16 as uint16)."""
    return np.asarray(tensor.numpy())


def unique_parameters(model: nn.Layer) -> Dict[str, paddle.Tensor]:
    """Name -> parameter; of a tied pair only the first name (the embedding)."""
    unique: Dict[int, str] = {}
    parameters = dict(model.state_dict())  # named_parameters would list a tied pair once, under either name
    for name in sorted(parameters, key=lambda name: name.startswith("lm_head")):
        unique.setdefault(id(parameters[name]), name)
    return {name: parameters[name] for name in parameters if unique[id(parameters[name])] == name}


def require_complete(weights: ModelWeights, model: nn.Layer, folder: Path) -> None:
    """Every weight of the model is in the folder with its shape, and nothing else is.

    Raises:
        ModelError: lists what is missing, what is left over and which shapes differ.
    """
    parameters = unique_parameters(model)
    missing = [name for name in parameters if name not in weights]
    problems = [f"{len(missing)} weights of the model are not there: {_some(missing)}"] if missing else []
    unused = weights.unused + [name for name in weights.names if name not in parameters]
    unused = [name for name in unused if not _is_copy_of_embedding(name, weights, parameters)]
    if unused:
        problems.append(f"{len(unused)} tensors are no weights of the model: {_some(unused)}")
    for name, parameter in parameters.items():
        problems += _mismatch(weights.spec(name), parameter) if name in weights else []
    if problems:
        raise ModelError(f"{folder} does not fit its config.json:\n  " + "\n  ".join(problems))


def _mismatch(spec: TensorSpec, parameter: paddle.Tensor) -> List[str]:
    if spec.shape != tuple(parameter.shape):
        return [f"{spec.name} is {list(spec.shape)}, the config needs {list(parameter.shape)}"]
    if spec.tag not in FLOAT_TAGS.values():
        return [f"{spec.name} is stored as {spec.tag}; weights are {', '.join(FLOAT_TAGS.values())}"]
    return []


def _is_copy_of_embedding(name: str, weights: ModelWeights, parameters: Dict[str, paddle.Tensor]) -> bool:
    """A tied head may be stored beside the embedding; then it must say the same."""
    if not name.startswith("lm_head") or any(known.startswith("lm_head") for known in parameters):
        return False
    embedding = next(known for known in parameters if "embed" in known)
    return embedding in weights and np.array_equal(weights.raw(name), weights.raw(embedding))


def _some(names: List[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


@contextlib.contextmanager
def _default_dtype(dtype: str) -> Iterator[None]:
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


@contextlib.contextmanager
def _without_initialisation() -> Iterator[None]:
    from paddlenlp.transformers.model_utils import no_init_weights

    with no_init_weights():
        yield
