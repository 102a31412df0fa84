"""PaddleNLP models and tokenizers from a folder, and back to a folder, exactly."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, convert, numpy_type
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import is_classifier, read_config, to_paddlenlp
from paddle_sft.models.family import find_named
from paddle_sft.models.fast import use_cpu_forms
from paddle_sft.models.frozen_norms import mend_frozen_norms
from paddle_sft.models.last_layer import narrow_last_layer
from paddle_sft.models.linears import features, find_linears
from paddle_sft.models.packed import read_by_segments
from paddle_sft.models.padding import keep_padding_row
from paddle_sft.models.quantised import (
    array_names,
    array_specs,
    choose_schemes,
    is_in_codes,
    quantise_layers,
    require_cuttable,
    with_codes,
)
from paddle_sft.models.renames import rename_table
from paddle_sft.models.split import Share, become_share, part_of
from paddle_sft.models.stored_schemes import schemes_in
from paddle_sft.models.weights import ModelWeights, some
from paddle_sft.quant.choice import NO_SCHEMES, AnyChoice, Schemes

_ALIGNMENT = 64  # bytes


@dataclass
class LoadedModel:
    """A model, and what is needed to write it again."""

    model: nn.Layer
    config: Dict[str, Any]
    """config.json as `models.config.read_config` gave it."""
    place: str
    """The folder or name the user gave."""
    is_hugging_face: bool


def load_model(
    folder: Path, dtype: str, share: Optional[Share] = None, choice: Optional[AnyChoice] = None
) -> LoadedModel:
    """Load a causal language model; every weight of the model comes from the folder, and every tensor there is used.

    Memory on a CPU: the parameters, and some MiB of a tensor that is on its way into one.

    Args:
        folder: a Paddle or a Hugging Face model folder; which one is decided by looking at the names.
        dtype: float32, bfloat16 or float16 for the parameters.
        share: what of the model this rank holds, and therefore reads; None for all of it.
        choice: how linear layers are quantised while they are loaded; None leaves the folder as it is, of floats or of
            codes.

    Raises:
        ModelError: weights missing, left over, of another shape; damaged files; numbers that are none; a family that
            would not be exact.
    """
    config = read_config(folder)
    if is_classifier(config):
        raise ModelError(
            f"{folder} is a sequence classifier, which writes no text; set stage to classification (with do_predict it "
            "labels texts), or name the language model that it was made from"
        )
    model = build_empty(config, dtype) if share is None else build_share(config, dtype, share)
    is_hugging_face = fill(model, folder, config, choice)
    model.eval()
    return LoadedModel(model, config, str(folder), is_hugging_face)


def fill(model: nn.Layer, folder: Path, config: Dict[str, Any], choice: Optional[AnyChoice] = None) -> bool:
    """Give an empty model the weights of a folder; returns whether it has Hugging Face's layout.

    Raises:
        ModelError: as `load_model`.
    """
    stored = schemes_in(config, str(folder))
    schemes = choose_schemes(model, stored, choice, str(folder))
    require_cuttable(model, schemes)
    weights = open_weights(folder, model, stored)
    require_complete(weights, model, Path(folder), stored)
    parameters = {name: one for name, one in unique_parameters(model).items() if not is_in_codes(name, schemes)}
    for name, parameter in parameters.items():
        if part_of(parameter) is not None:
            weights.keep_part(name, part_of(parameter))
    fill_parameters(parameters, weights, Path(folder))
    quantise_layers(model, weights, schemes, are_codes=bool(stored))
    return weights.is_hugging_face


def open_weights(folder: Path, model: nn.Layer, stored: Schemes) -> ModelWeights:
    """The tensors of a model's folder; `stored` says which layers are codes there."""
    table = rename_table(type(model), model.config)
    return ModelWeights(folder, with_codes(table, stored) if stored else table)


def build_empty(config: Dict[str, Any], dtype: str) -> nn.Layer:
    """The model of a config with parameters that hold no memory yet; `assign` fills them."""
    with _default_dtype(dtype), paddle.LazyGuard(), _without_initialisation():
        return _build(config)


def build_share(config: Dict[str, Any], dtype: str, share: Share) -> nn.Layer:
    """What a rank holds of the model of a config, with parameters that hold no memory yet."""
    whole = build_empty(config, dtype)
    with _default_dtype(dtype), paddle.LazyGuard(), _without_initialisation():
        model = _build(config, share)
    become_share(model, whole, share, {name: tuple(one.shape) for name, one in unique_parameters(whole).items()})
    return model


def build_from_scratch(config: Dict[str, Any], dtype: str, seed: int, share: Optional[Share] = None) -> nn.Layer:
    """A freshly initialised model (PaddleNLP's initialisation of the family), the same for the same seed, or a share
    of it. Memory: that of the whole model, while its numbers are drawn."""
    if share is not None:
        return _share_of(build_from_scratch(config, dtype, seed), config, dtype, share)
    paddle.seed(seed)
    np.random.seed(seed % 2**32)
    with _default_dtype(dtype):
        model = _build(config)
    model.eval()
    return model


def _share_of(whole: nn.Layer, config: Dict[str, Any], dtype: str, share: Share) -> nn.Layer:
    model, values = build_share(config, dtype, share), unique_parameters(whole)
    for name, parameter in unique_parameters(model).items():
        part, array = part_of(parameter), stored(values[name])
        assign(parameter, array if part is None else part.take(array), FLOAT_TAGS[dtype])
    model.eval()
    return model


def _build(config: Dict[str, Any], share: Optional[Share] = None) -> nn.Layer:
    family = FAMILIES[config["model_type"]]
    settings = to_paddlenlp(config)
    if share is not None:
        settings.tensor_parallel_degree, settings.tensor_parallel_rank = share.tensor, share.tensor_rank
        settings.sequence_parallel = share.sequence_parallel
    with _without_tables(settings) if "rope_theta" in family.keys else contextlib.nullcontext():
        model = find_named(family.model_class)(settings)
    if family.mend:
        find_named(family.mend)(model, config)
    if not family.trains_padding:
        keep_padding_row(model, config)
    use_cpu_forms(model, family.norms)
    mend_frozen_norms(model)
    read_by_segments(model, config)
    narrow_last_layer(model)
    return model


def fill_parameters(parameters: Dict[str, paddle.Tensor], weights: ModelWeights, folder: Path) -> None:
    """Give every parameter its value from the folder.

    Raises:
        ModelError: lists the weights that hold NaN, infinities, or numbers that the parameter's type can't hold.
    """
    problems = []
    for name, parameter in parameters.items():
        tag = FLOAT_TAGS[dtype_name(parameter)]
        array = _aligned(tuple(parameter.shape), numpy_type(tag))
        wrong = weights.fill(name, array, tag)
        problems += [f"{name}: {wrong} of {array.size:,} numbers"] if wrong else []
        weights.release(name)
        _hand_over(array, parameter)
    refuse_numbers(problems, len(parameters), folder)


def refuse_numbers(problems: List[str], num_weights: int, folder: Path) -> None:
    """Raise a ModelError if there are problems: each says of one weight what is wrong with its numbers."""
    if problems:
        more = [f"and {len(problems) - 8} weights more"] if len(problems) > 8 else []
        raise ModelError(
            f"{folder}: {len(problems)} of {num_weights} weights hold what no weight can be; go back to an earlier "
            "checkpoint, copy the folder again, or choose a dtype that holds the numbers:\n  "
            + "\n  ".join(problems[:8] + more)
        )


def _aligned(shape: Tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """An empty array that begins at a multiple of 64 bytes, as Paddle's own do: products are rounded differently at
    other places in memory, and a run that is resumed must go on bit for bit."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    memory = np.empty(num_bytes + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(kind).reshape(shape)


def _hand_over(array: np.ndarray, parameter: paddle.Tensor) -> None:
    """Let a parameter own an array's memory: on a CPU nothing is copied, so no weight is there twice."""
    place = paddle.base.framework._current_expected_place()
    parameter.get_tensor().set(array, place, isinstance(place, paddle.CPUPlace))


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
    for name in array_names(model):
        del parameters[name]
    for name in sorted(parameters, key=lambda name: name.startswith("lm_head")):
        unique.setdefault(id(parameters[name]), name)
    return {name: parameters[name] for name in parameters if unique[id(parameters[name])] == name}


def require_complete(weights: ModelWeights, model: nn.Layer, folder: Path, stored: Schemes = NO_SCHEMES) -> None:
    """Every weight of the model is in the folder with its shape, and nothing else is.

    Raises:
        ModelError: lists what is missing, what is left over and which shapes differ.
    """
    shapes = {name: shape for name, shape in whole_shapes(model).items() if not is_in_codes(name, stored)}
    codes = _codes(model, stored)
    shapes.update({name: spec.shape for name, spec in codes.items()})
    missing = [name for name in shapes if name not in weights]
    problems = [f"{len(missing)} weights of the model are not there: {some(missing)}"] if missing else []
    unused = weights.unused + [name for name in weights.names if name not in shapes]
    unused = [name for name in unused if not _is_copy_of_embedding(name, weights, model)]
    if unused:
        problems.append(f"{len(unused)} tensors are no weights of the model: {some(unused)}")
    for name, shape in shapes.items():
        problems += _mismatch(weights.spec(name), shape, codes.get(name)) if name in weights else []
    problems += weights.ill_sized()
    if problems:
        raise ModelError(f"{folder} does not fit its config.json:\n  " + "\n  ".join(problems))


def whole_shapes(model: nn.Layer) -> Dict[str, Tuple[int, ...]]:
    """Name -> shape of every weight of the model, those on other ranks included; a tied pair once."""
    if hasattr(model, "whole_shapes"):
        return model.whole_shapes
    return {name: tuple(parameter.shape) for name, parameter in unique_parameters(model).items()}


def _codes(model: nn.Layer, stored: Schemes) -> Dict[str, TensorSpec]:
    """Name -> spec of the codes and scales that a folder must have."""
    linears = find_linears(model)
    specs = [array_specs(path, scheme, features(linears[path])) for path, scheme in stored.items()]
    return {spec.name: spec for found in specs for spec in found}


def _mismatch(spec: TensorSpec, shape: Tuple[int, ...], code: Optional[TensorSpec] = None) -> List[str]:
    if spec.shape != shape:
        return [f"{spec.name} is {list(spec.shape)}, the config needs {list(shape)}"]
    if code is not None:
        return [] if spec.tag == code.tag else [f"{spec.name} is stored as {spec.tag}, it must be {code.tag}"]
    if spec.tag not in FLOAT_TAGS.values():
        return [f"{spec.name} is stored as {spec.tag}; weights are {', '.join(FLOAT_TAGS.values())}"]
    return []


def _is_copy_of_embedding(name: str, weights: ModelWeights, model: nn.Layer) -> bool:
    """A tied head may be stored beside the embedding; then it must say the same."""
    if not name.startswith("lm_head") or any(known.startswith("lm_head") for known in whole_shapes(model)):
        return False
    embedding = getattr(model, "embedding_name", "")
    if not embedding:
        vectors = model.get_input_embeddings().weight
        embedding = next(known for known, parameter in unique_parameters(model).items() if parameter is vectors)
    return embedding in weights and np.array_equal(weights.raw(name), weights.raw(embedding))


@contextlib.contextmanager
def _default_dtype(dtype: str) -> Iterator[None]:
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


@contextlib.contextmanager
def _without_tables(settings: Any) -> Iterator[None]:
    """PaddleNLP's layers each keep the cosines and sines of max_position_embeddings positions (4.3 GB in Mixtral-8x7B);
    here `models.rotary_tables` has those that are needed, once."""
    longest, settings.max_position_embeddings = settings.max_position_embeddings, 1
    try:
        yield
    finally:
        settings.max_position_embeddings = longest


@contextlib.contextmanager
def _without_initialisation() -> Iterator[None]:
    from paddlenlp.transformers.model_utils import no_init_weights

    with no_init_weights():
        yield
