"""The LM head and its cross entropy in one, on trained positions only and in chunks: the logits of a row never exist.

The gradient of the summed loss is taken while a chunk's logits are there. The backward pass only scales what was kept:
one gradient the size of the trained hidden states, and for a trained head one the size of its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Optional, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

from paddle_sft.core.records import IGNORED
from paddle_sft.losses.split_head import split_loss_and_gradient, split_statistics
from paddle_sft.operators.cpu import cross_entropy_in_place, is_compiled_for
from paddle_sft.operators.linear import product

CHUNK_BYTES = 64 * 2**20
"""Float32 logits of one chunk, of which three arrays live at a time. Where their gradient overwrites them there is
one, which may be twice as large: each chunk reads the weight anew, so more of them make the products slower."""


@dataclass(frozen=True)
class HeadRows:
    """What stands for the head's own rows of the tokens [first, end): only this of the head is trained."""

    first: int
    end: int
    weight: Tensor
    """[end - first, H]"""


@dataclass(frozen=True)
class Head:
    """logits = cap(hidden W + bias)."""

    weight: Tensor
    is_embedding: bool
    """True for [V, H], one row a token (a head tied to the embedding); False for [H, V]."""
    bias: Optional[Tensor] = None
    """[V]"""
    softcap: float = 0.0
    """Logits s become softcap * tanh(s / softcap); 0 for none."""
    group: Optional[Any] = None
    """Of the ranks that have parts of the vocabulary; None where this one has all of it."""
    rows: Optional[HeadRows] = None

    @property
    def vocabulary(self) -> int:
        return int(self.weight.shape[0 if self.is_embedding else 1])

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, H] -> [N, V] in float32."""
        return self.capped(self.scores(hidden))

    def scores(self, hidden: Tensor, room: Optional[Tensor] = None) -> Tensor:
        """hidden W + bias, in float32; in `room`, if that is given and a compiled product makes them."""
        scores = product(hidden, self.weight, transpose_y=self.is_embedding, room=room)
        if self.rows is not None:
            own = paddle.matmul(hidden, self.rows.weight.astype(hidden.dtype), transpose_y=True)
            scores[..., self.rows.first : self.rows.end] = own
        return (scores if self.bias is None else scores + self.bias).astype("float32")

    def capped(self, scores: Tensor) -> Tensor:
        return self.softcap * paddle.tanh(scores / self.softcap) if self.softcap else scores

    def input_gradient(self, by_scores: Tensor) -> Tensor:
        """[N, V] -> [N, H]."""
        gradient = product(by_scores, self.weight, transpose_y=not self.is_embedding)
        if self.rows is None:
            return gradient
        first, end = self.rows.first, self.rows.end
        replaced = self.weight[first:end] if self.is_embedding else self.weight[:, first:end].T
        return gradient + by_scores[:, first:end] @ (self.rows.weight - replaced)

    def add_weight_gradient(self, total: Tensor, hidden: Tensor, by_scores: Tensor) -> None:
        """Add that of a chunk to `total`, in place: a second array of the weight's size is never made."""
        pair = (by_scores, hidden) if self.is_embedding else (hidden, by_scores)
        product(*pair, transpose_x=True, add_to=total)


def labels_of(hidden: Tensor, labels: np.ndarray) -> Tensor:
    """The labels [B, T] of a batch as its hidden states need them: all of them, or [1, N] where hidden [1, N, H] is of
    the trained positions alone, in their order."""
    if list(hidden.shape[:2]) == list(labels.shape):
        return paddle.to_tensor(labels)
    return paddle.to_tensor(labels[labels != IGNORED][None])


class _Room:
    """The array that logits are made in, kept from chunk to chunk and from step to step: of a block of this size the
    system hands out every page anew, zeroed, which took 6 % of a LoRA step's time on a CPU."""

    def __init__(self) -> None:
        self._array: Optional[Tensor] = None

    def of(self, rows: int, columns: int) -> Tensor:
        """[rows, columns], float32, with any numbers. Ends what was given before."""
        if self._array is None or self._array.size < rows * columns:
            self._array = None  # before a larger one is made
            self._array = paddle.empty([rows * columns], dtype="float32")
        return self._array[: rows * columns].reshape([rows, columns])


_ROOM = _Room()


def head_loss_sum(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Sum of -log p(label) over trained positions, in float32.

    A position whose loss is 0 still counts for the divisor, which is why the divisor comes from the labels.

    Shapes: hidden [B, T, H], labels [B, T], already shifted, IGNORED where nothing is trained -> [].
    """
    states, targets = _trained(hidden, labels)
    if not len(targets):
        return hidden.sum().astype("float32") * 0.0
    others = (head.bias, head.rows.weight if head.rows else None)
    return _HeadLoss.apply(states, head.weight, targets, head, *[one for one in others if one is not None])


@paddle.no_grad()
def head_statistics(hidden: Tensor, labels: Tensor, head: Head) -> Tuple[float, int, int]:
    """(loss sum, trained tokens, tokens whose most likely word is the label) of one batch, for evaluation."""
    states, targets = _trained(hidden, labels)
    loss, hits = 0.0, 0
    for start, end in _chunks(len(targets), head.vocabulary, CHUNK_BYTES):
        logits = head.logits(states[start:end])
        if head.group is not None:
            found = split_statistics(logits, targets[start:end], head.group)
            loss, hits = loss + found[0], hits + found[1]
            continue
        loss += float(F.cross_entropy(logits, targets[start:end], reduction="sum"))
        hits += int((logits.argmax(axis=-1) == targets[start:end]).sum())
    return loss, len(targets), hits


def _trained(hidden: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
    """Hidden states [N, H] and labels [N] of the trained positions."""
    labels, states = labels.reshape([-1]), hidden.reshape([-1, hidden.shape[-1]])
    positions = paddle.nonzero(labels != IGNORED).reshape([-1])
    if len(positions) == len(labels):
        return states, labels
    return paddle.gather(states, positions), paddle.gather(labels, positions)


def _chunks(num: int, vocabulary: int, most: int) -> Iterator[Tuple[int, int]]:
    """Ranges of equal length, as few as `most` bytes of logits allow."""
    if num:
        parts = -(-num * vocabulary * 4 // most)
        size = -(-num // parts)
        yield from ((start, min(start + size, num)) for start in range(0, num, size))


class _HeadLoss(PyLayer):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, head: Head, *others: Tensor) -> Tensor:
        """`others`: the head's bias and its trained rows, those of them that there are: what needs a gradient is named
        to autograd as an input."""
        bias, rows = head.bias, head.rows
        loss = paddle.zeros([], dtype="float32")
        for_states = [] if not states.stop_gradient else None
        for_weight = None if weight.stop_gradient else paddle.zeros(weight.shape, dtype=weight.dtype)
        for_bias = None if bias is None or bias.stop_gradient else paddle.zeros(bias.shape, dtype="float32")
        for_rows = None if rows is None or rows.weight.stop_gradient else paddle.zeros_like(rows.weight)
        overwrites = head.group is None and not head.softcap and is_compiled_for(states)
        most = 2 * CHUNK_BYTES if overwrites else CHUNK_BYTES
        for start, end in _chunks(len(targets), head.vocabulary, most):
            chunk = states[start:end]
            one_loss, by_scores = _loss_and_gradient(head, chunk, targets[start:end], overwrites)
            loss += one_loss
            if for_bias is not None:
                for_bias += by_scores.sum(0)
            by_scores = by_scores.astype(weight.dtype)
            if for_states is not None:
                for_states.append(head.input_gradient(by_scores))
            if for_weight is not None:
                head.add_weight_gradient(for_weight, chunk.astype(weight.dtype), by_scores)
            if for_rows is not None:
                for_rows += by_scores[:, rows.first : rows.end].T @ chunk.astype(weight.dtype)
            del by_scores  # before the next chunk's are made, where they have no room of their own
        by_others = [] if bias is None else [None if for_bias is None else for_bias.astype(bias.dtype)]
        by_others += [] if rows is None else [for_rows]
        if for_states is not None:
            for_states = paddle.concat(for_states).astype(states.dtype)
            if head.group is not None:  # each rank's part of the vocabulary gave a part of the sum
                paddle.distributed.all_reduce(for_states, group=head.group)
        ctx.gradients = (for_states, for_weight, None, *by_others)  # in the inputs' order; the targets have none
        return loss

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> Tuple[Optional[Tensor], ...]:
        gradients, ctx.gradients = ctx.gradients, None  # used once; kept, they would outlive the step
        found = [None if one is None else one.scale_(by_loss.astype(one.dtype)) for one in gradients]
        return tuple(found)


def _loss_and_gradient(head: Head, chunk: Tensor, targets: Tensor, overwrites: bool) -> Tuple[Tensor, Tensor]:
    """(summed loss, its gradient [N, V] by hidden W + bias); the gradient may take the scores' place, in `_ROOM`."""
    if overwrites:
        scores = head.scores(chunk, _ROOM.of(len(chunk), head.vocabulary))
        return paddle.to_tensor(cross_entropy_in_place(scores, targets), dtype="float32"), scores
    scores = head.scores(chunk)
    if head.group is not None:
        capped = head.capped(scores)
        loss, gradient = split_loss_and_gradient(capped, targets, head.group)
        return loss, gradient * (1 - (capped / head.softcap).square()) if head.softcap else gradient
    with paddle.enable_grad():
        scores = scores.detach()
        scores.stop_gradient = False
        loss = F.cross_entropy(head.capped(scores), targets, reduction="sum")
        (gradient,) = paddle.grad(loss, scores)
    return loss.detach(), gradient
