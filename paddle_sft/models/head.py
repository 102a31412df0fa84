"""A model in two parts: hidden states, and the LM head that makes logits of them."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_sft.losses.head import Head, HeadRows
from paddle_sft.models.passes import run_whole


def hidden_states(model: nn.Layer, input_ids: Tensor) -> Tensor:
    """[B, T] -> [B, T, H], after the last norm, before the head; segments are those of the model's row layout."""
    if hasattr(model, "share"):
        return run_whole(model, input_ids)
    output = getattr(model, model.base_model_prefix)(input_ids=input_ids)
    return output[0] if isinstance(output, (tuple, list)) else output


def find_head(model: nn.Layer) -> Head:
    """The LM head of a causal language model, as `losses.head` computes it.

    A tied head, and the head of the families that have no other (BLOOM, OPT, GPT-2), is an embedding: [V, H].
    """
    layer: Any = model.lm_head
    weight = layer.decoder_weight if hasattr(layer, "decoder_weight") else layer.weight
    rows, columns = weight.shape
    is_tied = weight is getattr(model.get_input_embeddings(), "weight", None)
    share = getattr(model, "share", None)
    vocab_size = model.config.vocab_size // (share.tensor if share else 1)
    is_embedding = is_tied or rows == vocab_size != columns
    softcap = float(getattr(model.config, "final_logit_softcapping", None) or 0.0)
    group = share.tensor_group if share else None
    trained = getattr(model, "trained_rows", None)
    own = None if trained is None else trained.of_head
    rows = None if own is None else HeadRows(trained.first, trained.end, own)
    return Head(weight, is_embedding, getattr(layer, "bias", None), softcap, group, rows)
