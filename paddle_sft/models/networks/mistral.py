"""Mistral: PaddleNLP's network with heads of any size (Mistral-Nemo's) and a head that may be tied."""

from __future__ import annotations

from typing import Any, Dict, List

from paddle import Tensor, nn
from paddlenlp.transformers import MistralForCausalLM as _MistralForCausalLM
from paddlenlp.transformers.mistral.modeling import MistralAttention

from paddle_sft.models.networks.blocks import give_heads, layers_of
from paddle_sft.models.networks.rotary import mix
from paddle_sft.models.networks.tied import tie_head
from paddle_sft.models.packed import Cache, LayerRows
from paddle_sft.models.renames import Piece, whole_pieces


def attend(
    layer: nn.Layer, rows: LayerRows, hidden_states: Tensor, past_key_value: Cache = None, **kwargs: Any
) -> tuple:
    """[B, T, hidden] -> ([B, T, hidden], no attention weights, the cache)."""
    output, present = mix(layer, rows, hidden_states, past_key_value)
    return output, None, present


class MistralForCausalLM(_MistralForCausalLM):
    """paddlenlp 3.0.0b4: heads have hidden_size / heads numbers, every model gets a head of its own, and the embedding
    of the padding token, which may be the end of a text too, is zero."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for attention in layers_of(self, MistralAttention):
            give_heads(attention, config, qkv_bias=False)
        if config.tie_word_embeddings:
            tie_head(self)

    @classmethod
    def weight_pieces(cls, config: Any) -> List[Piece]:
        """PaddleNLP's, without a head where it is tied."""
        pieces = whole_pieces(cls, config)
        return [piece for piece in pieces if not (config.tie_word_embeddings and piece.paddle == "lm_head.weight")]

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: Any, is_split: bool = True) -> Dict[str, Any]:
        actions = super()._get_tensor_parallel_mappings(config, is_split)
        if config.tie_word_embeddings:
            actions["lm_head.weight"] = actions["embed_tokens.weight"]
        return actions
