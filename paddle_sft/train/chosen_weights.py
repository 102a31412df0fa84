"""Which of a model's own weights are trained, and at which rate: by layer, by name, or as a list says."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Dict, Iterable, List, Optional, Sequence, Set

import paddle
from paddle import nn

from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.hub import unique_parameters
from paddle_sft.models.renames import RenameTable

_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.(.+)$")
ALL = "all"


def layer_of(name: str) -> Optional[int]:
    """The number of the layer (from 0) that a weight is in; None for embeddings, the last norm and the head."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def choose_by_layers(names: Sequence[str], num_layers: int, modules: Sequence[str], extra: Sequence[str]) -> List[str]:
    """The weights to train of a model with these weights.

    Args:
        num_layers: the last so many layers; negative: the first so many; 0: none.
        modules: parts of their paths inside a layer, such as mlp or q_proj; ["all"] for all of them.
        extra: parts of the paths of weights outside layers, such as embed_tokens.

    Raises:
        ArgumentError: more layers than there are, or a name that matches nothing.
    """
    inside = {name: _LAYER.search(name).group(2) for name in names if layer_of(name) is not None}
    count = 1 + max((layer_of(name) for name in inside), default=-1)
    if abs(num_layers) > count:
        raise ArgumentError(f"freeze_trainable_layers is {num_layers}, the model has {count} layers; lower it")
    chosen = range(count - num_layers, count) if num_layers >= 0 else range(-num_layers)
    parts = None if list(modules) == [ALL] else list(modules)
    _require_known("freeze_trainable_modules", parts or [], inside.values())
    outside = [name for name in names if name not in inside]
    _require_known("freeze_extra_modules", extra, outside)
    found = {name for name in inside if layer_of(name) in chosen and (parts is None or _has_any(inside[name], parts))}
    found.update(name for name in outside if _has_any(name, extra))
    if not found:
        raise ArgumentError(
            "freeze leaves nothing to train; raise freeze_trainable_layers, or name freeze_extra_modules"
        )
    return [name for name in names if name in found]


def _has_any(path: str, parts: Iterable[str]) -> bool:
    """Whether one of the parts stands in a path, whole names only: proj is not in q_proj."""
    return any(f".{part}." in f".{path}." for part in parts)


def _require_known(key: str, given: Iterable[str], paths: Iterable[str]) -> None:
    paths = list(paths)
    for part in given:
        if not _has_any(part, [""]) and not any(_has_any(path, [part]) for path in paths):
            words = list(dict.fromkeys(word for path in paths for word in path.split(".") if not word.isdigit()))
            near = get_close_matches(part, words, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ArgumentError(f"{key} {part!r} matches no weight; {hint}Names here: {', '.join(words)}")


def choose_by_patterns(names: Sequence[str], patterns: Sequence[str], renames: RenameTable, place: str) -> List[str]:
    """The weights that a list of names or regular expressions means, each matched from a name's begin, under
    Paddle's name or Hugging Face's.

    Raises:
        ArgumentError: an entry that is no regular expression, or that matches nothing.
    """
    spellings = {name: [name, *(piece.hf for piece in renames.of_paddle.get(name, ()))] for name in names}
    found: Set[str] = set()
    for pattern in patterns:
        try:
            matches = re.compile(pattern).match
        except re.error as error:
            raise ArgumentError(f"{place}: {pattern!r} is not a regular expression: {error}") from error
        mine = {name for name, spelled in spellings.items() if any(matches(one) for one in spelled)}
        if not mine:
            raise ArgumentError(
                f"{place}: {pattern!r} matches no weight of this model (a name here: {names[-1]}); was it made for "
                "another model?"
            )
        found |= mine
    return [name for name in names if name in found]


def train_only(model: nn.Layer, names: Iterable[str]) -> None:
    """Freeze every weight but these: no gradient and no optimizer state is kept for the others."""
    chosen = set(names)
    for name, parameter in unique_parameters(model).items():
        parameter.stop_gradient = name not in chosen


def set_layer_rates(model: nn.Layer, decay: float) -> Dict[str, float]:
    """Give each weight its own learning rate, as a factor of the run's.

    1 for the last norm and the head, decay for the last layer, decay^2 for the one before it, and so on; embeddings
    (also ones tied to the head) come below the first layer.

    Returns:
        weight's name -> factor.
    """
    parameters = unique_parameters(model)
    numbers = [layer_of(name) for name in parameters]
    count = 1 + max(number for number in numbers if number is not None)
    is_above, factors = False, {}
    for (name, parameter), number in zip(parameters.items(), numbers):
        is_above = is_above or number is not None
        height = (
            number + 1 if number is not None else (count + 1 if is_above and not _is_embedding(model, parameter) else 0)
        )
        factors[name] = decay ** (count + 1 - height)
        parameter.optimize_attr["learning_rate"] = parameter.optimize_attr.get("learning_rate", 1.0) * factors[name]
    return factors


def _is_embedding(model: nn.Layer, parameter: paddle.Tensor) -> bool:
    return parameter is model.get_input_embeddings().weight
