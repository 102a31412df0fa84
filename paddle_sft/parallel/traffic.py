"""What a rank sends in a step, and what a layout costs beside another: numbers for a ranking, no forecast of a speed.

Collectives count as rings (Thakur et al. 2005, https://doi.org/10.1177/1094342005051521): of S bytes among n ranks each
sends (n - 1) / n S to gather or to scatter, and twice that to add up. Nothing is assumed to overlap with computing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict

from paddle_sft.parallel.held import Held, find_held
from paddle_sft.parallel.interleave import bubble
from paddle_sft.parallel.recipe import Recipe
from paddle_sft.parallel.shape import ModelShape
from paddle_sft.parallel.topology import AXES, Layout

OPERATIONS_A_SECOND = 200e12
"""Of one device; assumed, about half of what a data-centre GPU states for bfloat16."""
INSIDE = 200e9
"""Bytes a second that a rank sends to others of its node; assumed."""
BETWEEN = 25e9
"""The same to other nodes; assumed."""
_TIMES = {"": 1.0, "core_attn": 1.0, "full_attn": 1.1, "full": 4 / 3}
"""Computing with recompute over without: a forward pass is a third of a step."""


@dataclass(frozen=True)
class Cost:
    """Of a step."""

    sent: Dict[str, float]
    """Axis -> bytes that a rank sends."""
    bubble: float
    """Share of the time in which a stage of the pipeline waits."""
    seconds: float
    """With the assumed speeds: only its ratio to another layout's means something."""
    tokens: float
    """Of all ranks."""

    @property
    def sent_per_token(self) -> float:
        """Bytes that all data of a step cost one rank, by the tokens of the step."""
        return sum(self.sent.values()) / self.tokens


def cost_of(shape: ModelShape, recipe: Recipe, layout: Layout, node_size: int) -> Cost:
    """
    Args:
        node_size: devices of a node, which hold ranks that follow one another.
    """
    sent = {**dict.fromkeys(AXES, 0.0), **_of_layers(shape, recipe, layout)}
    for axis, size in _of_gradients(shape, recipe, layout).items():
        sent[axis] += size
    tokens = recipe.tokens * recipe.accumulation * layout.data_ranks
    waiting = bubble(layout, recipe.accumulation)
    numbers = 6 if recipe.is_full else 4  # forward, gradients of inputs, and those of weights where they are trained
    times = _TIMES["full"] if layout.stage == 3 else _TIMES[recipe.recompute]
    computing = times * numbers * shape.parameters * tokens / layout.ranks / OPERATIONS_A_SECOND
    travelling = sum(size / (INSIDE if _is_inside(layout, axis, node_size) else BETWEEN) for axis, size in sent.items())
    return Cost(sent, waiting, computing / (1 - waiting) + travelling, tokens)


def _is_inside(layout: Layout, axis: str, node_size: int) -> bool:
    """Whether ranks that differ on an axis share a node."""
    span = 1
    for faster in AXES[AXES.index(axis) :]:
        span *= getattr(layout, faster)
    return span <= node_size


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks


def _of_layers(shape: ModelShape, recipe: Recipe, layout: Layout) -> Dict[str, float]:
    """Of forward and backward passes: sums of tensor parallelism, stages of a pipeline, parts of a row."""
    tokens, number = recipe.tokens / layout.sep, recipe.compute_bytes
    hidden = tokens * shape.hidden * number
    layers = shape.layers / layout.pipeline
    # forward: after o_proj and down_proj; backward: before each matrix whose columns are split
    forward, backward = 2, 5
    sums = forward * (2 if recipe.recompute == "full" else 1) + backward
    tensor = recipe.accumulation * layers * sums * 2 * _ring(layout.tensor) * hidden
    exchanged = tokens * (2 * shape.query + 2 * shape.key) * number
    times = 3 if recipe.recompute in ("full", "full_attn") else 2
    sep = recipe.accumulation * layers * times * _ring(layout.sep) * exchanged
    own = layout.tensor if layout.sequence_parallel else 1
    pipeline = 2 * layout.chunks * recipe.accumulation * hidden / own if layout.pipeline > 1 else 0.0
    return {"tensor": tensor, "sep": sep, "pipeline": pipeline}


def _of_gradients(shape: ModelShape, recipe: Recipe, layout: Layout) -> Dict[str, float]:
    """Of the sum of gradients and of what sharding sends."""
    held = find_held(shape, recipe, layout, 0)
    number = recipe.weight_bytes
    trained = held.trained * number
    found = dict.fromkeys(("data", "sharding", "sep"), 0.0)
    if layout.stage == 3:
        found["sharding"] = _of_stage3(shape, recipe, layout, held)
        trained = sum(held.whole) * number + sum(held.rows) * number
    elif layout.stage == 2:
        found["sharding"] = (recipe.accumulation + 1) * trained  # to the owners for every micro-batch, and back once
    elif layout.stage == 1:
        found["sharding"] = (2 + 1) * _ring(layout.sharding) * trained  # added up, and the updated weights once
    found["sep"] = 2 * _ring(layout.sep) * trained
    found["data"] = 2 * _ring(layout.data) * trained
    return found


def _of_stage3(shape: ModelShape, recipe: Recipe, layout: Layout, held: Held) -> float:
    """Weights gathered twice (embedding and head once) and gradients scattered, for every micro-batch."""
    part, number = _ring(layout.sharding), recipe.weight_bytes
    layers = held.layer * shape.layers
    of_gradients = part * sum(held.rows) * layout.sharding * number
    own = 3 * part * sum(held.whole) * number
    return recipe.accumulation * (part * (2 * layers + held.outer) + of_gradients) + own
