"""Next-token training: fine-tuning on targets, and pre-training on all of a text. They differ in their labels only."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import paddle
from paddle import Tensor

from paddle_sft.losses.supervised import token_loss_sum

Segments = Sequence[Sequence[int]]


class Supervised:
    """Cross entropy of the tokens that a sample marks as trained."""

    def __init__(self, name: str) -> None:
        self.name = name

    def logits(self, model: Any, input_ids: Tensor, segment_lengths: Optional[Segments] = None) -> Tensor:
        """[B, T] -> [B, T, V].

        Args:
            segment_lengths: for each row the lengths of its samples and its padding; None for one sample a row, filled
                at its end, which a causal model never looks at.
        """
        rows, width = input_ids.shape
        model.row_layout.set(segment_lengths or [[width]] * rows)
        output = model(input_ids=input_ids)
        return output[0] if isinstance(output, (tuple, list)) else output

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Sum over the trained tokens of a batch (the divisor belongs to the step)."""
        logits = self.logits(model, paddle.to_tensor(batch.input_ids), batch.segment_lengths)
        return token_loss_sum(logits, paddle.to_tensor(batch.labels))
