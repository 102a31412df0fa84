"""What a run saves, from one rank that has everything or from many that have parts of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from paddle import Tensor

from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, tag_of, write_tensors
from paddle_sft.models.hub import dtype_name, stored
from paddle_sft.parallel.agree import together
from paddle_sft.train.team import Team
from paddle_sft.train.weights import Produce
from paddle_sft.train.whole import holdings, write_whole

_WEIGHTS, _OPTIMIZER = "first/", "second/"
"""Begin of names; in the alphabet the weights come first, as they are written, whichever of them `order` leaves out."""


class Part:
    """Something to write: specs of its arrays, who gives them, and how they are written."""

    def __init__(self, write: Callable, specs: Sequence[TensorSpec], produce: Optional[Produce]) -> None:
        self._write = write
        self._specs = specs
        self._produce = produce

    def write(self, place: Path) -> None:
        self._write(place, self._specs, self._produce)


def save(team: Team, weights: Any, optimizer: Mapping[str, Tensor], write: Callable[[Part, Part], None]) -> None:
    """Let the first rank save. All ranks call it; it returns on all when the first is done, and raises on all.

    Args:
        weights: an entry of train.weights.
        optimizer: parameter/slot -> what this rank has of the optimizer's state.
        write: is called on the first rank with the weights and the optimizer's state, in this order to be written.
    """
    if team.groups is None or not team.is_split:
        together(team.groups, lambda: _save_here(weights, optimizer, write) if team.rank == 0 else None)
        return
    tensors = {_WEIGHTS + name: tensor for name, tensor in team.held(weights.tensors()).items()}
    tensors.update({_OPTIMIZER + name: tensor for name, tensor in optimizer.items()})

    def write_both(specs: List[TensorSpec], produce: Produce) -> None:
        parts: Dict[str, List[TensorSpec]] = {_WEIGHTS: [], _OPTIMIZER: []}
        for spec in specs:
            begin = _WEIGHTS if spec.name.startswith(_WEIGHTS) else _OPTIMIZER
            parts[begin].append(replace(spec, name=spec.name[len(begin) :]))
        give = {begin: lambda spec, begin=begin: produce(replace(spec, name=begin + spec.name)) for begin in parts}
        write(
            Part(weights.write, parts[_WEIGHTS], give[_WEIGHTS]),
            Part(write_tensors, parts[_OPTIMIZER], give[_OPTIMIZER]),
        )

    write_whole(team.groups, holdings(tensors), [_WEIGHTS + name for name in weights.order()], write_both)


def _save_here(weights: Any, optimizer: Mapping[str, Tensor], write: Callable[[Part, Part], None]) -> None:
    specs = [_spec(name, tensor) for name, tensor in optimizer.items()]
    write(Part(weights.write, (), None), Part(write_tensors, specs, lambda spec: stored(optimizer[spec.name])))


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    tag = FLOAT_TAGS.get(dtype_name(tensor)) or tag_of(stored(tensor))
    return TensorSpec(name, tag, tuple(tensor.shape))
