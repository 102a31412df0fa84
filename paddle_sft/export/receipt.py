"""How far two models' logits are apart, in the numbers a user can judge."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np

PROMPTS = (
    "The quick brown fox jumps over the lazy dog, and then",
    "Question: What is the capital of France? Answer:",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "今天天气很好，我们一起去公园",
    "In 1905, Albert Einstein published four papers that",
    "SELECT name, COUNT(*) FROM orders GROUP BY",
)
"""Fixed texts the check runs on: prose, a question, code, Chinese, SQL."""

TOLERANCES = {"F32": 1e-2, "F16": 5e-2, "BF16": 3e-1}
"""Largest logit difference that rounding explains, by the type the merged weights are stored in. A bfloat16 weight is
rounded by up to 2**-9 of itself; through a deep model that moves logits of size 20 by a few tenths."""


def compare_logits(before: List[np.ndarray], after: List[np.ndarray]) -> Dict[str, Any]:
    """Figures over all positions of pairs of logits [1, T, V] in float32.

    kl is the mean Kullback-Leibler divergence of `after` from `before` in nats, computed in float64.
    """
    differences = [np.abs(one - other) for one, other in zip(before, after)]
    positions = sum(one.shape[0] * one.shape[1] for one in before)
    same = sum(int((one.argmax(-1) == other.argmax(-1)).sum()) for one, other in zip(before, after))
    divergence = sum(float(_divergence(one, other).sum()) for one, other in zip(before, after))
    return {
        "max_abs_logit_difference": float(np.max([difference.max() for difference in differences])),
        "mean_abs_logit_difference": float(np.concatenate([difference.ravel() for difference in differences]).mean()),
        "top1_agreement": same / positions,
        "kl": float(np.maximum(0.0, divergence / positions)),  # unlike max(), keeps NaN
        "num_positions": positions,
    }


def _divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    log_p, log_q = _log_softmax(one.astype(np.float64)), _log_softmax(other.astype(np.float64))
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
