"""Mixture of experts: every token goes to its top-k experts, one product for each expert that has tokens.

Nothing is dropped and no expert has a capacity, so what a token gets depends on no other token of the row.
"""

from __future__ import annotations

from typing import Any, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer


class Gate(nn.Layer):
    """logits = x W. Shapes: x [..., H], W [H, E], logits [..., E]. No bias.

    Not an nn.Linear, so that adapters and quantisation leave it alone: a router is trained whole or not at all.
    """

    def __init__(self, hidden_size: int, num_outputs: int, spread: float) -> None:
        super().__init__()
        normal = nn.initializer.Normal(0.0, spread)
        self.weight = self.create_parameter([hidden_size, num_outputs], default_initializer=normal)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class SparseBlock(nn.Layer):
    """sum over a token's top-k experts e of p_e(x) expert_e(x) (Shazeer et al. 2017, https://arxiv.org/abs/1701.06538).

    Args:
        gate: the router, hidden size to number of experts.
        experts: layers [N, H] -> [N, H]; their linear layers may be wrapped by adapters.
        normalised: the k probabilities of a token are divided by their sum.
    """

    def __init__(self, gate: Gate, experts: Sequence[nn.Layer], top_k: int, normalised: bool) -> None:
        super().__init__()
        self.gate = gate
        self.experts = nn.LayerList(experts)
        self.top_k = top_k
        self.normalised = normalised

    def forward(self, hidden_states: Tensor) -> Tuple[Tensor, Tensor]:
        """[..., H] -> ([..., H], the router's logits [N, E])."""
        tokens = hidden_states.reshape([-1, hidden_states.shape[-1]])
        logits = self.gate(tokens)
        weights, chosen = choose_experts(logits, self.top_k, self.normalised)
        mixed = mix_experts(tokens, self.experts, weights, chosen)
        return mixed.reshape(hidden_states.shape), logits


def choose_experts(logits: Tensor, top_k: int, normalised: bool) -> Tuple[Tensor, Tensor]:
    """logits [N, E] -> (probabilities [N, k] in float32, their experts [N, k]), the likeliest first.

    The softmax goes over all experts.
    """
    weights, chosen = paddle.topk(F.softmax(logits.astype("float32"), axis=-1), top_k, axis=-1)
    return weights / weights.sum(-1, keepdim=True) if normalised else weights, chosen


def mix_experts(tokens: Tensor, experts: Sequence[nn.Layer], weights: Tensor, chosen: Tensor) -> Tensor:
    """Shapes: tokens [N, H], weights and chosen [N, k] -> [N, H].

    Tokens are sorted by expert: memory is that of k N tokens, whatever the number of experts.
    """
    num_tokens, top_k = chosen.shape
    experts_of = chosen.numpy().reshape([-1])  # on a GPU this waits for the router: products need their sizes
    counts = np.bincount(experts_of, minlength=len(experts))
    order = np.argsort(experts_of, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    route = _Route(paddle.to_tensor(order // top_k), paddle.to_tensor(places), top_k)
    weights = _with_idle_experts(weights, tokens, [expert for expert, count in zip(experts, counts) if not count])
    parts = paddle.split(_Sort.apply(tokens, route), counts[counts > 0].tolist())
    busy = [expert for expert, count in zip(experts, counts) if count]
    outputs = paddle.concat([expert(part) for expert, part in zip(busy, parts)])
    shares = paddle.gather(weights.reshape([-1, 1]), paddle.to_tensor(order))
    return _SumBack.apply((outputs * shares).astype(tokens.dtype), route)


def _with_idle_experts(weights: Tensor, tokens: Tensor, idle: Sequence[nn.Layer]) -> Tensor:
    """Give experts without tokens a gradient of zeros: none at all would leave them out of an optimizer's step.

    They compute one row of zeros, which is added to the weights zero times. An empty product would say the same, but
    has no gradient in Paddle 3.3.1.
    """
    if not paddle.is_grad_enabled():
        return weights
    trained = [expert for expert in idle if any(not parameter.stop_gradient for parameter in expert.parameters())]
    if not trained:
        return weights
    row = paddle.zeros([1, tokens.shape[-1]], dtype=tokens.dtype)
    return weights + 0.0 * paddle.add_n([expert(row).sum() for expert in trained]).astype(weights.dtype)


class _Route:
    """Where the k copies of every token stand when they are sorted by expert."""

    def __init__(self, token_at: Tensor, places: Tensor, top_k: int) -> None:
        self.token_at = token_at
        """[k N]: the token at each place."""
        self.places = places
        """[k N]: the place of each copy, copies of a token behind one another."""
        self.top_k = top_k

    def sort(self, tokens: Tensor) -> Tensor:
        """[N, H] -> [k N, H]."""
        return paddle.gather(tokens, self.token_at)

    def sum_back(self, copies: Tensor) -> Tensor:
        """[k N, H] -> [N, H], the transpose of `sort`. Always in one order, which a scatter on a GPU has not."""
        return paddle.gather(copies, self.places).reshape([-1, self.top_k, copies.shape[-1]]).sum(1)


class _Sort(PyLayer):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, route: _Route) -> Tensor:
        ctx.route = route
        return route.sort(tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ctx.route.sum_back(gradient)


class _SumBack(PyLayer):
    @staticmethod
    def forward(ctx: Any, copies: Tensor, route: _Route) -> Tensor:
        ctx.route = route
        return route.sum_back(copies)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ctx.route.sort(gradient)
