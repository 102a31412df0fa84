"""A model in two parts: hidden states, and the LM head that makes logits of them."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_sft.losses.head import Head


def hidden_states(model: nn.Layer, input_ids: Tensor) -> Tensor:
    """[B, T] -> [B, T, H], after the last norm, before the head; segments are those of the model's row layout."""
    output = getattr(model, model.base_model_prefix)(input_ids=input_ids)
    return output[0] if isinstance(output, (tuple, list)) else output


def find_head(model: nn.Layer) -> Head:
    """The LM head of a causal language model, as `losses.head` computes it.

    A tied head, and the head of the families that have no other (BLOOM, OPT, GPT-2), is an embedding: [V, H].
    """
    layer: Any = model.lm_head
    weight = layer.decoder_weight if hasattr(layer, "decoder_weight") else layer.weight
    rows, columns = weight.shape
    is_tied = weight is model.get_input_embeddings().weight
    is_embedding = is_tied or rows == model.config.vocab_size != columns
    softcap = float(getattr(model.config, "final_logit_softcapping", None) or 0.0)
    return Head(weight, is_embedding, getattr(layer, "bias", None), softcap)
