"""Whole arrays from what the ranks hold, one at a time: the first rank writes what one process would write."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, numpy_type
from paddle_sft.models.hub import dtype_name, stored
from paddle_sft.models.part_of import PartOf
from paddle_sft.models.split import part_of
from paddle_sft.parallel.agree import agree
from paddle_sft.parallel.groups import Groups, gather_objects

Produce = Callable[[TensorSpec], np.ndarray]
Write = Callable[[List[TensorSpec], Produce], None]


class Holding:
    """What one rank has of an array: all of it, or a part."""

    def __init__(self, tensor: Tensor, part: Optional[PartOf]) -> None:
        self.tensor = tensor
        self.part = part

    @property
    def shape(self) -> Tuple[int, ...]:
        return tuple(self.tensor.shape) if self.part is None else self.part.shape


def holdings(tensors: Mapping[str, Tensor]) -> Dict[str, Holding]:
    """What this rank has, by name; a parameter knows which part it is."""
    return {name: Holding(tensor, part_of(tensor)) for name, tensor in tensors.items()}


def write_whole(groups: Groups, here: Mapping[str, Holding], order: Sequence[str], write: Write) -> None:
    """Let the first rank write whole arrays. All ranks call it with what they have, and with the same write.

    Memory: the arrays that `write` holds on the first rank, and one more.

    Args:
        order: names to begin with; the others follow in alphabetical order.
        write: is called on the first rank with what there is, and asks for one array at a time, in this order.

    Raises:
        Exception: what `write` raised, on the first rank; what `agree` makes of it on the others.
    """
    mine = {name: (_tag(one.tensor), one.shape, one.part, tuple(one.tensor.shape)) for name, one in here.items()}
    of_ranks = gather_objects(mine, groups.world)
    known = {name for of_rank in of_ranks for name in of_rank}
    first = [name for name in order if name in known]
    names = first + sorted(known - set(first))
    sources = {name: _sources(name, of_ranks) for name in names}
    if groups.rank != 0:
        for name in names:
            _give(name, here, sources[name], groups.rank)
        agree(groups, None)
        return
    specs = [TensorSpec(name, *of_ranks[sources[name][0]][name][:2]) for name in names]
    taken: List[str] = []

    def produce(spec: TensorSpec) -> np.ndarray:
        taken.append(spec.name)
        return _take(spec, here, sources[spec.name], of_ranks)

    failure: Optional[BaseException] = None
    try:
        write(specs, produce)
    except BaseException as error:  # the others are sending: take what they send, then let all of them know
        failure = error
    for spec in specs[len(taken) :]:
        _take(spec, here, sources[spec.name], of_ranks)
    agree(groups, failure)


def _sources(name: str, of_ranks: Sequence[Mapping[str, Tuple]]) -> List[int]:
    """Ranks that together have the whole array: the first that has each part."""
    found: Dict[Any, int] = {}
    for rank, of_rank in enumerate(of_ranks):
        if name in of_rank:
            found.setdefault(of_rank[name][2], rank)
    return sorted(found.values())


def _give(name: str, here: Mapping[str, Holding], sources: Sequence[int], rank: int) -> None:
    if rank in sources:
        dist.send(_on_device(here[name].tensor.detach()).contiguous(), dst=0)


def _on_device(tensor: Tensor) -> Tensor:
    """NCCL sends what is on the GPU; state that is in host memory (`offload`) is not. Elsewhere it is there already."""
    is_there = paddle.get_device() == "cpu" or not tensor.place.is_cpu_place()
    return tensor if is_there else tensor.cuda()


def _take(
    spec: TensorSpec, here: Mapping[str, Holding], sources: Sequence[int], of_ranks: Sequence[Mapping[str, Tuple]]
) -> np.ndarray:
    whole: Optional[np.ndarray] = None
    for rank in sources:
        _, _, part, shape = of_ranks[rank][spec.name]
        if rank == 0:
            array = stored(here[spec.name].tensor)
        else:
            tensor = paddle.empty(list(shape), dtype=_dtype(spec.tag))
            dist.recv(tensor, src=rank)
            array = stored(tensor)
        if part is None:
            return array
        whole = np.empty(spec.shape, numpy_type(spec.tag)) if whole is None else whole
        part.put(array, whole)
    return whole


def _tag(tensor: Tensor) -> str:
    return FLOAT_TAGS[dtype_name(tensor)]


def _dtype(tag: str) -> str:
    return next(name for name, known in FLOAT_TAGS.items() if known == tag)
