"""BLOOM's attention: one fused projection, ALiBi instead of positions. And its first weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddlenlp.transformers.bloom import modeling

from paddle_sft.models.networks.learned import draw_weights
from paddle_sft.models.packed import Cache, LayerRows


class BloomModel(modeling.BloomModel):
    """paddlenlp 3.0.0b4: of a fresh linear layer with a bias it is not the bias that becomes zero but the weight, so no
    gradient ever reaches it."""

    def _init_weights(self, layer: nn.Layer) -> None:
        draw_weights(layer, self.config.initializer_range)


class BloomForCausalLM(modeling.BloomForCausalLM):
    """BLOOM with its LM head."""

    def __init__(self, config: Any) -> None:
        modeling.BloomPreTrainedModel.__init__(self, config)  # PaddleNLP's own would make its BloomModel
        self.bloom = BloomModel(config)
        self.lm_head = modeling.BloomLMHead(config, self.bloom.word_embeddings.weight)
        self.criterion = modeling.BloomPretrainingCriterion(
            tensor_parallel_degree=config.tensor_parallel_degree, tensor_parallel_output=config.tensor_parallel_output
        )


def attend(
    layer: nn.Layer, rows: LayerRows, hidden_states: Tensor, residual: Tensor, layer_past: Cache = None, **kwargs: Any
) -> tuple:
    """[B, T, hidden], and the residual [B, T, hidden] that is added to the result -> (their sum, the cache)."""
    query, key, value = layer._split_heads(layer.query_key_value(hidden_states))
    config = layer.config
    dropout = config.attention_dropout if layer.training else 0.0
    slopes = alibi_slopes(config.n_head, query.dtype)
    if config.tensor_parallel_degree > 1:  # this rank has some of the heads
        slopes = slopes[config.tensor_parallel_rank * layer.num_heads :][: layer.num_heads]
    mixed, present = rows.attend(query, key, value, layer_past, slopes=slopes, dropout=dropout)
    output = layer.dense(mixed.reshape([0, 0, -1]))
    return residual + nn.functional.dropout(output, layer.hidden_dropout, training=layer.training), present


def alibi_slopes(num_heads: int, dtype: Any) -> Tensor:
    """ALiBi slopes [H] (Press et al. 2021, https://arxiv.org/abs/2108.12409): powers of 2**(-8 / H), H a power of two;
    the heads beyond the largest power of two below H take every other slope of twice as many heads."""
    whole = 2 ** int(np.floor(np.log2(num_heads)))
    slopes = [2 ** (-8.0 / whole * (head + 1)) for head in range(whole)]
    slopes += [2 ** (-4.0 / whole * (head + 1)) for head in range(0, 2 * (num_heads - whole), 2)]
    return paddle.to_tensor(slopes, dtype="float32").astype(dtype)
