"""What becomes of the same tensor of several adapters: a weighted sum, trimmed (TIES) or thinned out (DARE) before."""

from __future__ import annotations

from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

Draw = Callable[[Tuple[int, ...], float], np.ndarray]
"""(shape, density) -> zeros and ones."""
Mix = Callable[[Sequence[np.ndarray], Sequence[float], float, Draw], np.ndarray]
"""(tensors of one shape, their weights, density, draw) -> one tensor."""


def linear(tensors: Sequence[np.ndarray], weights: Sequence[float], density: float, draw: Draw) -> np.ndarray:
    """sum of weight * tensor."""
    return sum(np.float32(weight) * tensor for weight, tensor in zip(weights, tensors))


def magnitude_prune(tensors: Sequence[np.ndarray], weights: Sequence[float], density: float, draw: Draw) -> np.ndarray:
    """The same, of the largest numbers of each tensor alone."""
    return linear([largest(tensor, density) for tensor in tensors], weights, density, draw)


def ties(tensors: Sequence[np.ndarray], weights: Sequence[float], density: float, draw: Draw) -> np.ndarray:
    """TIES (Yadav et al. 2023, https://arxiv.org/abs/2306.01708, section 4): trim, elect a sign, merge what has it."""
    return _with_elected_sign([largest(tensor, density) for tensor in tensors], weights)


def dare_linear(tensors: Sequence[np.ndarray], weights: Sequence[float], density: float, draw: Draw) -> np.ndarray:
    """DARE (Yu et al. 2023, https://arxiv.org/abs/2311.03099, equation 1): drop at random, rescale the rest, add."""
    return linear(_thinned(tensors, density, draw), weights, density, draw)


def dare_ties(tensors: Sequence[np.ndarray], weights: Sequence[float], density: float, draw: Draw) -> np.ndarray:
    """DARE's dropping in the place of TIES' trimming."""
    return _with_elected_sign(_thinned(tensors, density, draw), weights)


MIXES: Dict[str, Mix] = {
    "linear": linear,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "magnitude_prune": magnitude_prune,
}


def largest(tensor: np.ndarray, density: float) -> np.ndarray:
    """The tensor with all but the largest `density` of its numbers, by magnitude, set to zero."""
    keep = int(density * tensor.size)
    if keep >= tensor.size:
        return tensor
    mask = np.zeros(tensor.size, dtype=np.float32)
    if keep:
        mask[np.argpartition(np.abs(tensor).ravel(), tensor.size - keep)[tensor.size - keep :]] = 1.0
    return tensor * mask.reshape(tensor.shape)


def _thinned(tensors: Sequence[np.ndarray], density: float, draw: Draw) -> List[np.ndarray]:
    if density >= 1:
        return list(tensors)
    return [tensor * draw(tensor.shape, density) / np.float32(density) for tensor in tensors]


def _with_elected_sign(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The sign of the sum is elected for each number (0 counts as +); the mean of the weighted numbers that have it."""
    stack = np.stack(tensors)
    elected = np.where(stack.sum(axis=0) >= 0, 1, -1)
    agrees = np.sign(stack) == elected
    weighted = stack * np.asarray(weights, dtype=np.float32).reshape(-1, *[1] * (stack.ndim - 1))
    return ((weighted * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)).astype(np.float32)
