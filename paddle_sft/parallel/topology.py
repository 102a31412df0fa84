"""How the ranks of a run share its work: the degrees, who sits where, and whether a model can be cut that way.

Numbers only; nothing is loaded, so a layout that can't work is refused before the first weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import log2
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from paddle_sft.core.errors import ArgumentError

AXES = ("data", "pipeline", "sharding", "sep", "tensor")
"""From the slowest to the fastest: ranks next to each other share a layer, so its sums stay inside a machine."""
KEYS = {
    "tensor": "tensor_parallel_degree",
    "pipeline": "pipeline_parallel_degree",
    "sharding": "sharding_parallel_degree",
    "sep": "sep_parallel_degree",
}
"""Axis -> the key that the user writes; data parallelism is what is left."""
CHUNKS_KEY = "virtual_pp_degree"

_OF_EXPERTS = ("moe_intermediate_size", "shared_expert_intermediate_size")


@dataclass(frozen=True)
class Layout:
    """Ranks along each axis."""

    data: int = 1
    """Copies of the model that see different rows."""
    pipeline: int = 1
    """Stages of consecutive layers."""
    sharding: int = 1
    """As data, and the ranks share out optimizer state (stage 1), gradients (2), weights (3)."""
    sep: int = 1
    """Ranks that see different parts of the same rows, and different heads."""
    tensor: int = 1
    """Ranks that compute every layer together."""
    stage: int = 0
    """1, 2 or 3 with sharding above 1."""
    sequence_parallel: bool = False
    """Norms and sums between the layers are computed on a part of the tokens each."""
    chunks: int = 1
    """Parts of the stack that each stage holds (virtual pipeline)."""

    @property
    def ranks(self) -> int:
        return self.data * self.pipeline * self.sharding * self.sep * self.tensor

    @property
    def data_ranks(self) -> int:
        """Ranks that see different rows; the others see the same ones."""
        return self.data * self.sharding

    def place(self, rank: int) -> Dict[str, int]:
        """Axis -> this rank's position on it."""
        found = {}
        for axis in reversed(AXES):
            rank, found[axis] = divmod(rank, getattr(self, axis))
        return {axis: found[axis] for axis in AXES}

    def data_rank(self, rank: int) -> int:
        """Which rows a rank sees, from 0."""
        place = self.place(rank)
        return place["data"] * self.sharding + place["sharding"]

    def groups(self, axes: Sequence[str]) -> List[List[int]]:
        """Ranks that differ on these axes only, a list for each group."""
        found: Dict[Tuple[int, ...], List[int]] = {}
        for rank in range(self.ranks):
            place = self.place(rank)
            found.setdefault(tuple(place[axis] for axis in AXES if axis not in axes), []).append(rank)
        return list(found.values())

    def text(self) -> str:
        """Such as 2 tensor x 2 pipeline (2 virtual)."""
        virtual = f" ({self.chunks} virtual)" if self.chunks > 1 else ""
        names = {**dict(zip(AXES, AXES)), "pipeline": f"pipeline{virtual}"}
        parts = [f"{getattr(self, axis)} {names[axis]}" for axis in reversed(AXES) if getattr(self, axis) > 1]
        return " x ".join(parts) or "1 rank"


@dataclass(frozen=True)
class Sizes:
    """What of a model has to divide."""

    layers: int
    heads: int
    groups: int
    """Key and value heads."""
    vocabulary: int
    inner: int
    """Of the MLP."""
    of_experts: Tuple[int, ...] = ()
    """The same of experts' MLPs, where they have sizes of their own."""

    @staticmethod
    def of(config: Mapping[str, object]) -> Sizes:
        """From a config.json in Hugging Face's spelling, its family's defaults filled in."""
        heads = int(config["num_attention_heads"])
        return Sizes(
            int(config["num_hidden_layers"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config["vocab_size"]),
            int(config["intermediate_size"]),
            tuple(int(config[key]) for key in _OF_EXPERTS if config.get(key)),
        )


def make_layout(degrees: Mapping[str, int], stage: int, ranks: int, sequence_parallel: bool, chunks: int) -> Layout:
    """
    Args:
        degrees: axis -> ranks along it, without data; sharding -1 takes all that the other axes leave.

    Raises:
        ArgumentError: the degrees don't share out this many ranks, or contradict each other.
    """
    taken = {axis: max(1, degrees.get(axis, 1)) for axis in ("tensor", "pipeline", "sep")}
    cut = taken["tensor"] * taken["pipeline"] * taken["sep"]
    sharding = max(1, degrees.get("sharding", 1))
    if stage and degrees.get("sharding", -1) == -1:
        sharding = max(1, ranks // cut)
    wanted = Layout(1, taken["pipeline"], sharding, taken["sep"], taken["tensor"], stage, sequence_parallel, chunks)
    if ranks % wanted.ranks:
        given = ", ".join(f"{KEYS[axis]} {getattr(wanted, axis)}" for axis in KEYS if getattr(wanted, axis) > 1)
        raise ArgumentError(
            f"{given} need a multiple of {wanted.ranks} ranks, and this run has {ranks}; "
            f"{_nearest(wanted, ranks, None)}"
        )
    layout = replace(wanted, data=ranks // wanted.ranks)
    if stage and layout.sharding == 1:
        raise ArgumentError(
            f"sharding stage{stage} shares state among ranks that see different rows, and there is one: {ranks} ranks, "
            f"{layout.text()}; leave sharding out, or lower {_largest(layout)}"
        )
    return layout


def require_fitting(layout: Layout, sizes: Sizes) -> None:
    """
    Raises:
        ArgumentError: lists what of the model can't be cut that way, and the nearest layout that can.
    """
    found = list(problems(layout, sizes))
    if found:
        nearest = _nearest(layout, layout.ranks, sizes)
        raise ArgumentError(f"{'; '.join(found)}; {nearest}")


def problems(layout: Layout, sizes: Sizes) -> Iterator[str]:
    """What of a model can't be cut that way, in the user's words."""
    parts = (("heads", sizes.heads), ("key and value heads", sizes.groups))
    for name, number in (*parts, ("tokens of the vocabulary", sizes.vocabulary), ("MLP columns", sizes.inner)):
        if number % layout.tensor:
            yield f"{KEYS['tensor']} {layout.tensor} does not divide the model's {number:,} {name}"
    for number in sizes.of_experts:
        if number % layout.tensor:
            yield f"{KEYS['tensor']} {layout.tensor} does not divide the {number:,} columns of an expert"
    for name, number in parts:
        if layout.sep > 1 and number % (layout.tensor * layout.sep):
            shared = f"{KEYS['sep']} {layout.sep}" + (f" x tensor {layout.tensor}" if layout.tensor > 1 else "")
            yield f"{shared} does not divide the model's {number:,} {name}"
    wanted = layout.pipeline * layout.chunks
    if wanted > sizes.layers:
        each = f" x {CHUNKS_KEY} {layout.chunks}" if layout.chunks > 1 else ""
        yield f"{KEYS['pipeline']} {layout.pipeline}{each} needs {wanted} layers, and the model has {sizes.layers}"


def layer_ranges(num_layers: int, stages: int, chunks: int = 1) -> List[List[Tuple[int, int]]]:
    """For each stage its ranges of layers, one a chunk; they differ by one layer at most, the first are the longer."""
    parts = stages * chunks
    ends = [0]
    for part in range(parts):
        ends.append(ends[-1] + num_layers // parts + (part < num_layers % parts))
    return [[(ends[c * stages + s], ends[c * stages + s + 1]) for c in range(chunks)] for s in range(stages)]


def range_words(ranges: Sequence[Tuple[int, int]]) -> str:
    """Of the layers of a stage, such as 0-1, 4-5."""
    return ", ".join(f"{first}-{last - 1}" if last - first > 1 else f"{first}" for first, last in ranges)


def _nearest(wanted: Layout, ranks: int, sizes: Optional[Sizes]) -> str:
    """The layout of these ranks that differs least from a wanted one, as a suggestion."""
    divisors = [number for number in range(1, ranks + 1) if ranks % number == 0]
    found = []
    for tensor, pipeline, sep, sharding in product(divisors, repeat=4):
        cut = tensor * pipeline * sep * sharding
        if ranks % cut or (sharding > 1) != (wanted.stage > 0) or (tensor == 1 and wanted.sequence_parallel):
            continue
        one = replace(wanted, data=ranks // cut, tensor=tensor, pipeline=pipeline, sep=sep, sharding=sharding)
        for chunks in range(1, wanted.chunks + 1) if pipeline > 1 else (1,):
            one = replace(one, chunks=chunks)
            if sizes is None or not list(problems(one, sizes)):
                distance = sum(abs(log2(getattr(one, axis) / getattr(wanted, axis))) for axis in (*KEYS, "chunks"))
                found.append((distance, one.pipeline, one))
    if not found:
        return "no layout of these ranks works; start another number of ranks"
    one = min(found, key=lambda entry: entry[:2])[2]
    named = {**KEYS, "chunks": CHUNKS_KEY}
    keys = ", ".join(f"{key} {getattr(one, axis)}" for axis, key in named.items() if getattr(one, axis) > 1)
    return f"the nearest layout of {ranks} ranks that works: {keys or 'data parallel only'} ({one.text()})"


def _largest(layout: Layout) -> str:
    return KEYS[max(("tensor", "pipeline", "sep"), key=lambda axis: getattr(layout, axis))]
