"""Rows of the embedding and the LM head for tokens that a model was not made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np
import paddle
from paddle import nn

from paddle_sft.core.tensorfile import FLOAT_TAGS, from_float32, to_float32
from paddle_sft.models.head import find_head
from paddle_sft.models.hub import assign, dtype_name, stored, unique_parameters

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class NewRows:
    """Rows [first, end) of a model of `vocab_size` tokens, which its base of `base_size` tokens has not, or has without
    having used them."""

    first: int
    end: int
    vocab_size: int
    base_size: int


def grow(model: nn.Layer, first: int, end: int, reset: bool = True) -> NewRows:
    """Give a model rows for the token ids [first, end), in place, each of them the mean of the rows before `first`.

    Embedding and LM head, tied or not, and the head's bias. Rows there already (spare ones of a padded vocabulary) are
    set to the mean too; the vocabulary grows only as far as it must. Means are taken in float64 and rounded once, so
    that they are the same wherever the model is loaded (Hewitt 2021, "Initializing new word embeddings for pretrained
    language models": from the mean a new token starts with nearly the model's own distribution over the old ones).

    Args:
        reset: whether rows that are there already are set to the mean; else they keep what they hold.
    """
    size = int(model.config.vocab_size)
    start = first if reset else max(first, size)
    before = getattr(model, "new_rows", None)
    for parameter, axis in token_parameters(model).values():
        rows = _as_rows(stored(parameter), axis)
        tag = FLOAT_TAGS[dtype_name(parameter)]
        grown = np.zeros((max(size, end), *rows.shape[1:]), dtype=rows.dtype)
        grown[: len(rows)] = rows
        if start < end:
            grown[start:end] = from_float32(_mean(rows[:start], tag), tag)
        _replace(model, parameter, np.ascontiguousarray(_as_rows(grown, axis)))
    _set_size(model, size, max(size, end))
    begin, base_size = (min(first, before.first), before.base_size) if before else (first, size)
    model.new_rows = NewRows(begin, end, max(size, end), base_size)
    return model.new_rows


def token_parameters(model: nn.Layer) -> Dict[str, Tuple[paddle.Tensor, int]]:
    """Name -> (parameter, axis of the tokens) of the embedding and, where it is not tied, the LM head."""
    found = [(model.get_input_embeddings().weight, 0)]
    if hasattr(model, "lm_head"):
        head = find_head(model)
        found += [(head.weight, 0 if head.is_embedding else 1)]
        found += [(head.bias, 0)] if head.bias is not None else []
    names = {id(parameter): name for name, parameter in unique_parameters(model).items()}
    return {names[id(parameter)]: (parameter, axis) for parameter, axis in found}


def read_rows(model: nn.Layer, rows: NewRows) -> Dict[str, np.ndarray]:
    """Parameter's name -> its new rows [end - first, ...] as a file stores them."""
    trained = _trained(model)
    return {
        name: stored(trained[name])
        if name in trained
        else np.ascontiguousarray(_as_rows(stored(parameter), axis)[rows.first : rows.end])
        for name, (parameter, axis) in token_parameters(model).items()
    }


def _trained(model: nn.Layer) -> Dict[str, paddle.Tensor]:
    """Name of the embedding or the head -> its rows that are parameters of their own (models.trained_rows)."""
    rows = getattr(model, "trained_rows", None)
    if rows is None:
        return {}
    names = list(token_parameters(model))
    found = {names[0]: rows.embedding, **({names[1]: rows.head} if len(names) > 1 else {})}
    return {name: one for name, one in found.items() if one is not None}


def put_rows(array: np.ndarray, axis: int, rows: NewRows, values: np.ndarray) -> np.ndarray:
    """The base's embedding or head as that of the grown model. `array` and `values` are of one type."""
    old = _as_rows(array, axis)
    grown = np.zeros((rows.vocab_size, *old.shape[1:]), dtype=old.dtype)
    grown[: len(old)] = old
    grown[rows.first : rows.end] = values
    return _as_rows(grown, axis)


def set_rows(model: nn.Layer, rows: NewRows, values: Dict[str, Tuple[np.ndarray, str]]) -> None:
    """Give a model that has grown already its new rows; `values` are (stored array, tag) by parameter, where they are
    not the base's own."""
    trained = _trained(model)
    for name, (parameter, axis) in token_parameters(model).items():
        if name not in values:
            continue
        array, tag = values[name]
        if name in trained:
            assign(trained[name], array, tag)
            continue
        own = FLOAT_TAGS[dtype_name(parameter)]
        whole = np.array(_as_rows(stored(parameter), axis))
        whole[rows.first : rows.end] = array if tag == own else from_float32(to_float32(array, tag), own)
        parameter.set_value(np.ascontiguousarray(_as_rows(whole, axis)))


def _as_rows(array: np.ndarray, axis: int) -> np.ndarray:
    """A view with the tokens first, or back."""
    return array if axis == 0 else array.T


def _mean(rows: np.ndarray, tag: str) -> np.ndarray:
    """Float32 mean over the first axis, summed in float64 a few thousand rows at a time."""
    total = np.zeros(rows.shape[1:], dtype=np.float64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        total += to_float32(rows[start : start + _ROWS_AT_ONCE], tag).sum(axis=0, dtype=np.float64)
    return (total / len(rows)).astype(np.float32)


def _replace(model: nn.Layer, old: paddle.Tensor, array: np.ndarray) -> None:
    """Put a new parameter wherever `old` is, under any name: a tied pair stays tied."""
    places = [
        (layer, name)
        for layer in model.sublayers(include_self=True)
        for name, parameter in layer._parameters.items()
        if parameter is old
    ]
    new = places[0][0].create_parameter(list(array.shape), dtype=dtype_name(old))
    new.set_value(array)
    new.stop_gradient = old.stop_gradient
    for layer, name in places:
        layer._parameters[name] = new
        if hasattr(layer, "_num_embeddings"):
            layer._num_embeddings = len(array)


def _set_size(model: nn.Layer, old: int, new: int) -> None:
    model.config.vocab_size = new
    for layer in model.sublayers(include_self=True):
        if getattr(layer, "vocab_size", None) == old:
            layer.vocab_size = new
