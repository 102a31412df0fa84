"""Cross entropy of trained tokens."""

from __future__ import annotations

from typing import Tuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_sft.core.records import IGNORED


def token_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log p(label) over trained positions, in float32.

    Shapes: logits [B, T, V], labels [B, T] (already shifted: labels[:, t] is the target of logits[:, t]) -> [].
    Positions with the label IGNORED add nothing. A position whose loss is exactly 0 still counts for the divisor,
    which is why the divisor comes from the labels and not from here.
    """
    vocabulary = logits.shape[-1]
    return F.cross_entropy(
        logits.reshape([-1, vocabulary]).astype("float32"),
        labels.reshape([-1]),
        ignore_index=IGNORED,
        reduction="sum",
    )


def token_statistics(logits: Tensor, labels: Tensor) -> Tuple[float, int, int]:
    """(loss sum, trained tokens, tokens whose most likely word is the label) of one batch, for evaluation."""
    trained = labels != IGNORED
    hits = paddle.logical_and(logits.argmax(axis=-1) == labels, trained)
    return float(token_loss_sum(logits, labels)), int(trained.sum()), int(hits.sum())
