"""The plain way, which the suite's own is compared with."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor

from paddle_sft.core.records import IGNORED


def token_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log p(label) over trained positions. logits [B, T, V], labels [B, T], already shifted -> []."""
    return F.cross_entropy(
        logits.reshape([-1, logits.shape[-1]]), labels.reshape([-1]), ignore_index=IGNORED, reduction="sum"
    )
