"""The embedding of the padding token: read like any other, and not trained by what reads it."""

from __future__ import annotations

from typing import Any, Callable, Dict

import paddle
from paddle import Tensor, nn


def keep_padding_row(model: nn.Layer, config: Dict[str, Any]) -> None:
    """Leave the padding token's embedding out of training, in place, as transformers does where pad_token_id is set.

    It matters where a model pads with a token that its texts hold too, such as their end. A tied head still trains it.
    paddlenlp 3.0.0b4 trains it in most families, and in Mistral reads zeros for it whatever the checkpoint says.
    """
    padding = config.get("pad_token_id")
    embedding = model.get_input_embeddings()
    if getattr(embedding, "_padding_idx", None) is not None:
        embedding._padding_idx = None
    if isinstance(padding, int) and padding >= 0:
        embedding.forward = _EmbeddingForward(embedding, padding)


class _EmbeddingForward:
    def __init__(self, layer: nn.Layer, padding: int) -> None:
        self._layer = layer
        self._padding = padding
        self._forward: Callable = type(layer).forward

    def __call__(self, ids: Tensor) -> Tensor:
        vectors = self._forward(self._layer, ids)
        if vectors.stop_gradient:
            return vectors
        return paddle.where((ids == self._padding).unsqueeze(-1), vectors.detach(), vectors)
