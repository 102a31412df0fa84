"""LoRA on the embedding of the tokens."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.lora.layer import LoRADelta


class LoRAEmbedding(LoRADelta):
    """The same update where the layer is an embedding: a token id stands for its row of the unit matrix.

    Shapes: ids [...], A [vocabulary, rank], B [rank, hidden]. Here A starts at zero and B is random (the reference
    implementation's choice): a token's row of A gets its gradient through B. Dropout leaves out whole tokens.
    """

    def start(self, base: nn.Layer) -> None:
        self.lora_a.set_value(paddle.zeros_like(self.lora_a))
        self.lora_b.set_value(paddle.randn(self.lora_b.shape).astype(self.lora_b.dtype))

    def delta(self, x: Tensor) -> Tensor:
        low = F.embedding(x, self.lora_a) * self.scaling
        if self.dropout and self.training:
            low = low * F.dropout(paddle.ones([*x.shape, 1], dtype=low.dtype), self.dropout)
        return low @ self.lora_b
