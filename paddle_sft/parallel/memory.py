"""Bytes of tensors on one rank of a training step, from the shape of the model, the recipe and the layout alone.

What lives when is what `train` does (hybrid, pipeline, team, shards), what attention, norms and MLPs keep for their
backward pass, and how `losses.head` goes over the trained positions in chunks. tools/benchmark_plan.py compares it with
runs. Pipelines follow 1F1B (Narayanan et al. 2021, https://arxiv.org/abs/2104.04473): stage s of P has P - s
micro-batches in flight; with several parts a stage, what `parallel.interleave` counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List

from paddle_sft.losses.head import CHUNK_BYTES
from paddle_sft.parallel.held import Held, find_held, state_of
from paddle_sft.parallel.interleave import parts_in_flight
from paddle_sft.parallel.recipe import Recipe
from paddle_sft.parallel.shape import ModelShape
from paddle_sft.parallel.topology import Layout, layer_ranges

PARTS = ("weights", "gradients", "optimizer", "activations", "head", "buffers")


@dataclass(frozen=True)
class Moment:
    """What is there at once; bytes of each of PARTS."""

    name: str
    parts: Dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Need:
    """The memory of one rank."""

    stage: int
    """Of the pipeline, from 0."""
    moments: List[Moment]

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    def at(self, name: str) -> float:
        """Bytes at a moment."""
        return next(moment.total for moment in self.moments if moment.name == name)


def predict(shape: ModelShape, recipe: Recipe, layout: Layout) -> Need:
    """Of the rank that needs most. In a pipeline that is on the first stage, with most in flight and the embedding, or
    on the last, with the head."""
    stages = sorted({0, layout.pipeline - 1})
    return max((predict_stage(shape, recipe, layout, stage) for stage in stages), key=lambda need: need.peak.total)


def predict_stage(shape: ModelShape, recipe: Recipe, layout: Layout, stage: int) -> Need:
    """Of the ranks of one stage."""
    if layout.stage == 3 and recipe.recompute != "full":  # it computes every layer again in any case
        recipe = replace(recipe, recompute="full")
    return Need(stage, _Rank(shape, recipe, layout, stage).moments())


class _Rank:
    def __init__(self, shape: ModelShape, recipe: Recipe, layout: Layout, stage: int) -> None:
        self.shape, self.recipe, self.layout, self.stage = shape, recipe, layout, stage
        self.held = find_held(shape, recipe, layout, stage)
        self.tokens = recipe.tokens / layout.sep
        self.layers = Layers(shape, recipe, layout)
        ranges = layer_ranges(shape.layers, layout.pipeline, layout.chunks)[stage]
        self.part_layers = sum(last - first for first, last in ranges) / len(ranges)
        """Of one part of the stack that the stage holds; parts differ by one layer at most."""
        self.in_flight = parts_in_flight(layout, stage, recipe.accumulation)
        self.stays, self.added, self.state = state_of(self.held, recipe, layout)
        self.is_last = stage == layout.pipeline - 1
        self.is_open = layout.stage == 3
        """Whether embedding, head and a layer are put together while they compute."""

    def moments(self) -> List[Moment]:
        found = [self._backward(), self._first_layer(), *self._after()]
        if self.is_last:
            found.append(self._head())
        if self.is_open:
            whole = find_held(self.shape, self.recipe, replace(self.layout, stage=0, sharding=1), self.stage)
            found.append(Moment("loading", {**dict.fromkeys(PARTS, 0.0), "weights": whole.weights}))
        return found

    def _moment(self, name: str, activations: float = 0.0, head: float = 0.0, buffers: float = 0.0) -> Moment:
        tables = 2 * self.shape.head_size * (4 * self.recipe.length + self.recipe.compute_bytes * self.tokens)
        buffers += tables
        if self.is_last and not head and overwrites_logits(self.recipe, self.layout):
            buffers += logits_bytes(self.shape, self.recipe, self.layout, self.tokens)  # kept from step to step
        parts = (self.held.weights, self.stays, self.state, activations, head, buffers)
        return Moment(name, dict(zip(PARTS, parts)))

    def _saved(self) -> float:
        """Activations that wait for their backward pass, of all micro-batches and parts in flight."""
        one = self.part_layers * self.layers.kept
        if self.layout.pipeline > 1:
            one += self.layers.input  # what the part was sent
        return self.in_flight * one

    def _head(self) -> Moment:
        head, buffers = head_bytes(self.shape, self.recipe, self.layout, self.tokens), 0.0
        if self.is_open:
            buffers += self.held.outer
        if self.recipe.accumulation > 1:
            buffers += self._passed_on()
        return self._moment("head and its loss", self._saved(), head, buffers)

    def _passed_on(self) -> float:
        """Gradients of which other ranks update the weights, once a micro-batch has gone through."""
        return self.added if self.layout.stage == 1 else 0.0

    def _open(self) -> float:
        """What stage 3 has beside its rows while a layer computes backward: whole weights, and a head's gradient."""
        if not self.is_open:
            return 0.0
        return self.held.outer + self.held.layer + (self.held.outer / 2 if self.recipe.is_full else 0.0)

    def _pending(self) -> float:
        """Gradients of a layer in stage 2, which are sent when all of them are there."""
        return self.held.layer if self.layout.stage == 2 and self.recipe.is_full else 0.0

    def _backward(self) -> Moment:
        again = self.layers.all - self.layers.kept if self.recipe.recompute else 0.0
        buffers = self.layers.passing(self.held) + self._open() + self._pending()
        if self.recipe.accumulation > 1:
            buffers += self._passed_on()
        return self._moment("backward pass of the last layer", self._saved() + again, 0.0, buffers)

    def _first_layer(self) -> Moment:
        """The other end: all gradients are there, and one layer's activations."""
        buffers = self.layers.passing(self.held) + self._open() + self._pending() + self._passed_on()
        ahead = (self.in_flight - 1) / self.in_flight * self._saved()
        return self._moment("backward pass of the first layer", self.layers.all + ahead, 0.0, buffers)

    def _after(self) -> List[Moment]:
        """Sum over ranks, norm, update."""
        number, largest = self.recipe.weight_bytes, self.held.largest
        added = self._passed_on() if self.layout.stage == 1 else 0.0
        sums = 0.0
        if self.layout.stage == 2:
            sums = self.stays
        elif self.layout.data_ranks * self.layout.sep > 1:
            sums = 2 * self.held.bucket * number
        norm = 4 * largest * (2 if number == 2 else 1)
        update = 12 * largest if self.recipe.optimizer == "adafactor" else 0.0
        told = {"sum of the gradients": sums, "norm of the gradients": norm, "update": update}
        return [self._moment(name, buffers=buffers + added) for name, buffers in told.items()]


class Layers:
    """Bytes of one decoder layer and one micro-batch on a rank."""

    def __init__(self, shape: ModelShape, recipe: Recipe, layout: Layout) -> None:
        self.shape, self.recipe, self.layout = shape, recipe, layout
        self.tokens = recipe.tokens / layout.sep
        own = layout.tensor if layout.sequence_parallel else 1
        self._hidden = shape.hidden / own
        """Numbers of a token between the layers' matrices."""
        self.residual = max(recipe.weight_bytes, recipe.compute_bytes)
        self.input = self.tokens * self._hidden * self.residual
        self._attention = self._of_attention()
        self._copies = self._norms_outputs()
        self.all = self._everything()
        self.kept = self._kept()

    def _norms_outputs(self) -> float:
        """What the matrices read: one array for those that read the same; with tensor parallelism one each."""
        shape, number, adapted = self.shape, self.recipe.compute_bytes, not self.recipe.is_full
        if self.layout.tensor == 1:
            return 2 * self.tokens * shape.hidden * number
        low = (2 * self._hidden if self.layout.sequence_parallel else shape.hidden) if adapted else 0.0
        return self.tokens * (5 * shape.hidden + low) * number

    def _of_attention(self) -> float:
        """Query, key, value, output, and a float32 number a head and token."""
        numbers = 2 * self.shape.query + 2 * self.shape.key
        if self.shape.family == "qwen3":
            numbers += self.shape.query + self.shape.key  # before their norms
        return self.tokens * (numbers * self.recipe.compute_bytes + 4 * self.shape.heads) / self.layout.tensor

    def _everything(self) -> float:
        shape, recipe, number = self.shape, self.recipe, self.recipe.compute_bytes
        mlp = 3 * self.tokens * shape.inner * number / self.layout.tensor
        adapted = sum(matrix.path in recipe.targets for matrix in shape.matrices(0))
        low = self.tokens * recipe.lora_rank * adapted * number
        cast = 0.0
        if recipe.weight_bytes > number and not recipe.schemes:  # weights of each product in half precision
            cast = number * sum(matrix.size for matrix in shape.matrices(0, self.layout.tensor))
        return 2 * self.input + self._copies + self._attention + mlp + low + cast + 2 * self.norm_extra()

    def norm_extra(self) -> float:
        """Of a norm composed of Paddle's operators: the input in float32 (twice) and the normed numbers. The compiled
        one keeps nothing but its input."""
        if not self.recipe.on_gpu:
            return 0.0
        return self.tokens * self._hidden * (10 if self.recipe.compute_bytes == 2 else 4)

    def _kept(self) -> float:
        if self.recipe.recompute == "full":
            return self.input
        if self.recipe.recompute == "full_attn":
            copies = 0.0 if self.layout.tensor == 1 else 2 * self.tokens * self.shape.hidden * self.recipe.compute_bytes
            return self.all - self._attention - copies
        if self.recipe.recompute == "core_attn":
            return self.all - 4 * self.tokens * self.shape.heads / self.layout.tensor
        return self.all

    def passing(self, held: Held) -> float:
        """At most at once in a layer's backward pass beside what it kept: gradients of hidden states, of the MLP's two
        inner arrays and of a matrix, and a matrix of codes made numbers."""
        shape, recipe, tensor = self.shape, self.recipe, self.layout.tensor
        matrix = shape.hidden * shape.inner / tensor * recipe.weight_bytes if recipe.is_full else 0.0
        inner = 2 * self.tokens * shape.inner * recipe.compute_bytes / tensor
        made = held.largest_coded * (12 if recipe.on_gpu else 4)
        return self.tokens * shape.hidden * recipe.compute_bytes + inner + matrix + made


def head_bytes(shape: ModelShape, recipe: Recipe, layout: Layout, tokens: float) -> float:
    """Of the last norm, the head and its loss, with all tokens trained: hidden states (the layers' output, normed,
    gathered, their gradient in pieces and joined), the logits of a chunk as often as they are there at once, and the
    gradient of a trained head."""
    columns, in_place = shape.vocabulary // layout.tensor, overwrites_logits(recipe, layout)
    states = 5 * tokens * shape.hidden * recipe.compute_bytes
    if recipe.on_gpu:
        states += Layers(shape, recipe, layout).norm_extra()
    copies = 1.0 if in_place else 4.0 if layout.tensor > 1 else 3.5
    trained = columns * shape.hidden * recipe.weight_bytes if recipe.is_full else 0.0
    return states + copies * logits_bytes(shape, recipe, layout, tokens) + trained


def overwrites_logits(recipe: Recipe, layout: Layout) -> bool:
    """Whether the gradient of the logits takes their place, in an array that is there for good."""
    return not recipe.on_gpu and layout.tensor == 1


def logits_bytes(shape: ModelShape, recipe: Recipe, layout: Layout, tokens: float) -> float:
    """Of the logits of one chunk in float32."""
    columns = shape.vocabulary // layout.tensor
    most = 2 * CHUNK_BYTES if overwrites_logits(recipe, layout) else CHUNK_BYTES
    chunks = max(1, -(-int(tokens) * columns * 4 // most))
    return -(-int(tokens) // chunks) * columns * 4
