"""Models whose linear layers are stored in 4 or 8 bits: quantised while they are loaded, or loaded as they were saved.

All linear layers may be quantised (`models.linears.find_linears`: attention and feed-forward, experts, fused
projections). Embedding, LM head, classification head, routers, norms and biases stay as they are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorSpec
from paddle_sft.models.fingerprint import Mark, code_at, spots
from paddle_sft.models.linears import QuantisedPart, compute_dtype, features, find_linears, is_elsewhere
from paddle_sft.models.renames import Piece, RenameTable
from paddle_sft.models.split import part_of
from paddle_sft.models.stored_schemes import CONFIG_KEY, summary
from paddle_sft.models.weights import ModelWeights
from paddle_sft.quant.choice import AnyChoice, Schemes
from paddle_sft.quant.codec import Arrays, quantise
from paddle_sft.quant.linear import QuantisedLinear
from paddle_sft.quant.part import SMALLEST_BLOCK, part_scheme
from paddle_sft.quant.scheme import Scheme

_TAGS = {"uint8": "U8", "float32": "F32"}


def choose_schemes(model: nn.Layer, stored: Schemes, choice: Optional[AnyChoice], place: str) -> Dict[str, Scheme]:
    """Path -> scheme of a model about to be loaded from `place`, where `stored` is quantised already.

    Raises:
        ArgumentError: the folder is quantised otherwise than the user says.
        ModelError: it has codes of a layer that the model doesn't have.
    """
    paths = list(find_linears(model))
    foreign = [path for path in stored if path not in paths]
    if foreign:
        raise ModelError(f"{place}: {CONFIG_KEY} in config.json names {foreign[0]}, no linear layer of the model")
    if not stored:
        return choice.schemes(paths) if choice else {}
    if choice is not None and choice.schemes(paths) != dict(stored):
        raise ArgumentError(
            f"{place} is quantised already ({summary(stored)}), and {choice.asker} "
            f"{summary(choice.schemes(paths))}; {choice.remedy}"
        )
    return dict(stored)


def require_cuttable(model: nn.Layer, schemes: Schemes) -> None:
    """
    Raises:
        ArgumentError: borders between ranks would leave of a layer's blocks a few weights each.
    """
    linears = find_linears(model)
    for path, scheme in schemes.items():
        part = part_of(linears[path].weight)
        if part is None:
            continue
        block = part_scheme(scheme, part.shape, part.axis, part.ranges).block_size
        if block < SMALLEST_BLOCK:
            size = sum(last - first for first, last in part.ranges)
            degree, kind = part.shape[part.axis] // size, ("inputs", "outputs")[part.axis]
            raise ArgumentError(
                f"tensor_parallel_degree {degree} gives a rank {size} {kind} of {path} ({part.shape[0]} x "
                f"{part.shape[1]}), and its borders cut blocks of {scheme.block(part.shape[0])} weights into pieces of "
                f"{block}, each with a scale of its own (at least {SMALLEST_BLOCK} weights share one); choose a "
                "weight_blocksize that divides a rank's part, or a tensor_parallel_degree that leaves such a part"
            )


def is_in_codes(name: str, schemes: Schemes) -> bool:
    """Whether a parameter's name is that of a weight that is stored as codes."""
    path, _, last = name.rpartition(".")
    return last == "weight" and path in schemes


def with_codes(table: RenameTable, schemes: Schemes) -> RenameTable:
    """The names in a folder of codes: those of codes and scales in the place of the weight's."""
    plain = [found for name, found in table.of_paddle.items() if not is_in_codes(name, schemes)]
    pieces = [piece for found in plain for piece in found]
    names = [f"{path}.{name}" for path, scheme in schemes.items() for name in scheme.shapes(1, 1)]
    return RenameTable(pieces + [Piece(name, name) for name in names], table.buffers)


def array_specs(path: str, scheme: Scheme, sizes: Tuple[int, int]) -> List[TensorSpec]:
    """The stored arrays of a layer of (in, out) features."""
    shapes = scheme.shapes(*sizes)
    return [TensorSpec(f"{path}.{name}", _TAGS[kind], tuple(shape)) for name, (shape, kind) in shapes.items()]


def quantise_layers(model: nn.Layer, weights: ModelWeights, schemes: Schemes, are_codes: bool) -> None:
    """Put a `QuantisedLinear` in the place of each layer, one after another; biases have their values already.

    The model's `base_marks` gets what its fingerprint needs of these layers (models.fingerprint).

    Memory: the codes, and the float weight of one layer; the whole of it where this rank keeps a part of the codes.

    Raises:
        ModelError: a weight that holds NaN or infinities, by name.
    """
    linears = find_linears(model)
    originals = None if are_codes else _Originals(weights)
    spots_of, model.base_marks = spots({path: features(layer) for path, layer in linears.items()}), {}
    for path, scheme in schemes.items():
        layer = linears.pop(path)
        if is_elsewhere(layer):
            layer.scheme_elsewhere = scheme
            continue
        rows, columns = features(layer)
        name = f"{path}.weight"
        floats = None if are_codes else _whole_weight(weights, name, (rows, columns))
        arrays = read_codes(weights, path, scheme) if are_codes else quantise(as_tensor(floats.T), scheme, name)
        model.base_marks.update(_marks(spots_of.get(path, {}), floats, arrays["codes"]))
        if part_of(layer.weight) is None:
            quantised = QuantisedLinear(arrays, scheme, rows, columns, compute_dtype(layer), layer.bias)
        else:
            quantised = QuantisedPart(layer, arrays, scheme)
        quantised.read_original = originals and partial(originals.read, name)
        replace_layer(model, path, quantised)


def _marks(inside: Dict[int, Tuple[int, int]], floats: Optional[np.ndarray], codes: paddle.Tensor) -> Dict[int, Mark]:
    """What a base's fingerprint needs of one layer."""
    return {
        number: Mark(None if floats is None else float(floats[at]), code_at(codes, number))
        for number, at in inside.items()
    }


def read_codes(weights: ModelWeights, path: str, scheme: Scheme) -> Arrays:
    found = {name: paddle.to_tensor(np.array(weights.read(f"{path}.{name}"))) for name in scheme.shapes(1, 1)}
    for name, array in found.items():
        if array.dtype == paddle.float32 and not bool(paddle.isfinite(array).all()):
            raise ModelError(f"{path}.{name} holds NaN or infinite numbers; copy the model again")
    return found


def _whole_weight(weights: ModelWeights, name: str, sizes: Tuple[int, int]) -> np.ndarray:
    """[in, out], float32, with the memory of its transpose."""
    weight = np.empty(sizes[::-1], dtype=np.float32)
    wrong = weights.fill(name, weight.T, "F32")
    if wrong:
        raise ModelError(
            f"{name} holds what no weight can be ({wrong} of {weight.size:,} numbers); go back to an earlier "
            "checkpoint, or copy the model again"
        )
    weights.release(name)
    return weight.T


def as_tensor(array: np.ndarray) -> paddle.Tensor:
    """A tensor that owns an array's memory; on a CPU nothing is copied."""
    tensor = paddle.empty([0], dtype=str(array.dtype))
    place = paddle.base.framework._current_expected_place()
    tensor.get_tensor().set(array, place, isinstance(place, paddle.CPUPlace))
    return tensor


class _Originals:
    """Float weights of a folder that was quantised while it was loaded, to be read again one by one."""

    def __init__(self, weights: ModelWeights) -> None:
        self._folder, self._renames = weights.stored.folder, weights.renames
        self._weights: Optional[ModelWeights] = None

    def read(self, name: str) -> np.ndarray:
        """[in, out] in float32."""
        if self._weights is None:
            self._weights = ModelWeights(Path(self._folder), self._renames)
        found = np.empty(self._weights.spec(name).shape, dtype=np.float32)
        self._weights.fill(name, found, "F32")
        return found


def replace_layer(model: nn.Layer, path: str, layer: nn.Layer) -> None:
    *parents, last = path.split(".")
    parent = model
    for part in parents:
        parent = getattr(parent, part)
    setattr(parent, last, layer)


def quantised_linears(model: nn.Layer) -> Dict[str, QuantisedLinear]:
    """Path in the base model -> layer, of every quantised layer; wrapped by adapters or not."""
    return {_path_in_base(path): one for path, one in model.named_sublayers() if isinstance(one, QuantisedLinear)}


def _path_in_base(path: str) -> str:
    return path[: -len(".base")] if path.endswith(".base") else path


def schemes_of(model: nn.Layer) -> Dict[str, Scheme]:
    """Path -> scheme of a model in memory, layers on other stages of a pipeline included; empty for a model of
    floats."""
    linears = find_linears(model).items()
    names = ("whole_scheme", "scheme", "scheme_elsewhere")
    found = {path: next((vars(layer)[n] for n in names if n in vars(layer)), None) for path, layer in linears}
    return {_path_in_base(path): scheme for path, scheme in found.items() if scheme is not None}


def array_names(model: nn.Layer) -> Iterator[str]:
    """Names in the state_dict that are codes and scales, no parameters."""
    for path, layer in model.named_sublayers():
        if isinstance(layer, QuantisedLinear):
            yield from (f"{path}.{name}" for name in layer.arrays)


def plan_lines(model: nn.Layer) -> Dict[str, Tuple[str, str]]:
    """Name -> (value, why) for the plan of a run; empty for a model of floats."""
    layers = quantised_linears(model)
    if not layers:
        return {}
    sizes = [(layer.in_features, layer.out_features) for layer in layers.values()]  # of this rank's part
    count = sum(rows * columns for rows, columns in sizes)
    used = sum(layer.scheme.num_bytes(*size) for layer, size in zip(layers.values(), sizes))
    names = ", ".join(dict.fromkeys(path.rsplit(".", 1)[-1] for path in layers))
    others = [path for path, layer in find_linears(model).items() if not isinstance(layer, QuantisedLinear)]
    others = [path for path in others if path.rsplit(".", 1)[0] not in layers and ".updates." not in path]
    rest = ", ".join(dict.fromkeys(path.rsplit(".", 1)[-1] for path in others))
    found = {
        "quantised": (summary(schemes_of(model)), names),
        "quantised weights": (f"{count:,}", f"{8 * used / count:.2f} bits a weight, {used / 2**20:,.1f} MiB"),
    }
    why = "only linear layers are quantised" + (f"; of these not {rest}" if rest else "")
    return {**found, "not quantised": ("embedding, heads, routers, norms, biases", why)}
