"""What a rank holds between two steps: parameters, the gradients that stay, the optimizer's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Tuple

from paddle_sft.parallel.recipe import Recipe
from paddle_sft.parallel.shape import BY_ROWS, Matrix, ModelShape
from paddle_sft.parallel.topology import Layout, layer_ranges
from paddle_sft.quant.part import INPUTS, OUTPUTS, part_scheme
from paddle_sft.quant.scheme import Scheme

BUCKET = 25_000_000
"""Numbers of gradients that travel in one message, if no parameter is larger (train.gradients)."""


@dataclass
class Held:
    """Parameters of one rank. Bytes are of what is there at rest; numbers are of trained parameters as computed."""

    weights: float = 0.0
    rows: List[int] = field(default_factory=list)
    """Numbers of trained matrices of which a rank of sharding stage 3 has rows."""
    whole: List[int] = field(default_factory=list)
    """Numbers of the other trained parameters, in the model's order."""
    layer: float = 0.0
    """Bytes of a decoder layer's matrices put together, without those in codes."""
    outer: float = 0.0
    """Bytes of embedding and head put together, those of them that are in rows at rest."""
    largest_coded: int = 0
    """Numbers of the largest matrix that is stored in 4 or 8 bits."""

    @property
    def trained(self) -> int:
        return sum(self.rows) + sum(self.whole)

    @property
    def largest(self) -> int:
        return max([*self.rows, *self.whole], default=0)

    @property
    def bucket(self) -> int:
        """Numbers of the largest message of gradients."""
        largest = size = 0
        for one in self.whole:
            size += one
            largest = max(largest, size)
            size = 0 if size >= BUCKET else size
        return largest


def find_held(shape: ModelShape, recipe: Recipe, layout: Layout, stage: int) -> Held:
    """The parameters of a rank on a stage of the pipeline (from 0)."""
    shards = layout.sharding if layout.stage == 3 else 1
    found, ranges = Held(), layer_ranges(shape.layers, layout.pipeline, layout.chunks)[stage]
    is_last = stage == layout.pipeline - 1
    table = (shape.vocabulary // layout.tensor) * shape.hidden
    if stage == 0:
        _add_table(found, recipe, table, shape.vocabulary, shards)
    for layer in (number for one in ranges for number in range(*one)):
        _add_layer(found, shape, recipe, layout, layer)
    if is_last:
        _add_vector(found, recipe, shape.hidden)
        if not shape.is_tied:
            _add_table(found, recipe, table, shape.hidden, shards)
        elif stage > 0:
            _add_table(found, recipe, table, shape.vocabulary, shards)
    return found


def _add_table(found: Held, recipe: Recipe, numbers: int, rows: int, shards: int) -> None:
    cut = shards if rows % shards == 0 else 1
    found.weights += numbers * recipe.weight_bytes / cut
    found.outer += numbers * recipe.weight_bytes if cut > 1 else 0
    if recipe.is_full:
        (found.rows if cut > 1 else found.whole).append(numbers // cut)


def _add_vector(found: Held, recipe: Recipe, numbers: int) -> None:
    found.weights += numbers * recipe.weight_bytes
    if recipe.is_full:
        found.whole.append(numbers)


def _add_layer(found: Held, shape: ModelShape, recipe: Recipe, layout: Layout, layer: int) -> None:
    shards, floats = layout.sharding if layout.stage == 3 else 1, 0
    for matrix in shape.matrices(layer, layout.tensor):
        scheme, cut = recipe.schemes.get(matrix.path), shards if matrix.rows % shards == 0 else 1
        if scheme is not None:
            found.weights += _coded_bytes(matrix, scheme)
            found.largest_coded = max(found.largest_coded, matrix.size)
        else:
            found.weights += matrix.size * recipe.weight_bytes / cut
            floats += matrix.size * recipe.weight_bytes
        if recipe.is_full:
            (found.rows if cut > 1 else found.whole).append(matrix.size // cut)
        elif matrix.path in recipe.targets:
            # beside columns A is whole and B in parts, beside rows the other way round
            tensor, (rows, columns) = layout.tensor, matrix.whole
            cuts = (tensor, 1) if matrix.name in BY_ROWS else (1, tensor)
            pair = [recipe.lora_rank * rows // cuts[0], recipe.lora_rank * columns // cuts[1]]
            found.whole += pair
            found.weights += sum(pair) * recipe.weight_bytes
    for vector in shape.vectors(layout.tensor):
        _add_vector(found, recipe, vector)
    found.layer = max(found.layer, floats)


def _coded_bytes(matrix: Matrix, scheme: Scheme) -> int:
    """Of the codes and scales of a rank's part, whose borders may cut blocks."""
    axis = INPUTS if matrix.name in BY_ROWS else OUTPUTS
    part = (matrix.rows, matrix.columns)
    if part != matrix.whole:
        scheme = part_scheme(scheme, matrix.whole, axis, [(0, part[axis])])
    return scheme.num_bytes(*part)


def largest_share(numbers: Sequence[int], ranks: int) -> int:
    """Numbers of the rank that updates most, where whole parameters are shared out: the largest first, each to who has
    least so far."""
    loads: Dict[int, int] = dict.fromkeys(range(ranks), 0)
    for one in sorted(numbers, reverse=True):
        loads[min(loads, key=loads.__getitem__)] += one
    return max(loads.values())


def state_of(held: Held, recipe: Recipe, layout: Layout) -> Tuple[float, float, float]:
    """(bytes of gradients that stay from step to step, of those that a step adds, of the optimizer's state)."""
    owned = largest_share(held.whole, layout.sharding) if layout.sharding > 1 else sum(held.whole)
    mine = sum(held.rows) + owned
    state = mine * recipe.state_bytes
    if recipe.optimizer == "adafactor":
        state = 4 * 2 * sum(round(one**0.5) for one in [*held.rows, *held.whole])  # a row and a column of each matrix
    if recipe.offloads:
        state = 0.0
    stays = mine * recipe.weight_bytes
    return stays, (held.trained - mine) * recipe.weight_bytes, state
