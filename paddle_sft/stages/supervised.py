"""Next-token training: fine-tuning on targets, and pre-training on all of a text. They differ in their labels only."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.core.records import IGNORED
from paddle_sft.losses.head import head_loss_sum, labels_of
from paddle_sft.losses.supervised import TokenMeter
from paddle_sft.models.head import find_head, hidden_states
from paddle_sft.models.last_layer import want

Segments = Sequence[Sequence[int]]


class Supervised:
    """Cross entropy of the tokens that a sample marks as trained."""

    def __init__(self, name: str) -> None:
        self.name = name

    def logits(
        self, model: Any, input_ids: Tensor, segment_lengths: Optional[Segments] = None, batch: Any = None
    ) -> Tensor:
        """[B, T] -> [B, T, V].

        Args:
            batch: what the rows are from; None: each sample is a prompt as a whole.
            segment_lengths: for each row the lengths of its samples and its padding; None for one sample a row, filled
                at its end, which a causal model never looks at.
        """
        _set_rows(model, input_ids, segment_lengths, batch)
        output = model(input_ids=input_ids)
        return output[0] if isinstance(output, (tuple, list)) else output

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Sum over the trained tokens of a batch (the divisor belongs to the step)."""
        hidden = self.outputs(model, batch)
        return head_loss_sum(hidden, labels_of(hidden, batch.labels), find_head(model))

    def outputs(self, model: Any, batch: Any) -> Tensor:
        """What the meter reads of a batch: hidden states [B, T, H], or [1, N, H] of its trained positions alone where
        the model can leave out the rest."""
        input_ids = paddle.to_tensor(batch.input_ids)
        _set_rows(model, input_ids, batch.segment_lengths, batch)
        want(model, np.flatnonzero(batch.labels != IGNORED))
        return hidden_states(model, input_ids)

    def meter(self, model: Any) -> TokenMeter:
        """What evaluation adds its batches to."""
        return TokenMeter(find_head(model))


def _set_rows(model: Any, input_ids: Tensor, segment_lengths: Optional[Segments], batch: Any = None) -> None:
    rows, width = input_ids.shape
    positions, prompts = (None, None) if batch is None else (batch.positions, batch.prompt_lengths)
    model.row_layout.set(segment_lengths or [[width]] * rows, positions, prompts)
