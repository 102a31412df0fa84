"""Next-token training: fine-tuning on targets, and pre-training on all of a text. They differ in their labels only."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor

from paddle_sft.losses.supervised import token_loss_sum
from paddle_sft.models.packed import set_segments


class Supervised:
    """Cross entropy of the tokens that a sample marks as trained."""

    def __init__(self, name: str) -> None:
        self.name = name

    def logits(self, model: Any, input_ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, V]. Rows are filled at their end, which a causal model never looks at: no mask is needed."""
        set_segments(model, [[input_ids.shape[1]]] * input_ids.shape[0])
        output = model(input_ids=input_ids)
        return output[0] if isinstance(output, (tuple, list)) else output

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Sum over the trained tokens of a batch (the divisor belongs to the step)."""
        return token_loss_sum(self.logits(model, paddle.to_tensor(batch.input_ids)), paddle.to_tensor(batch.labels))
