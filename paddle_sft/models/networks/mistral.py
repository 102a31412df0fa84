"""Mistral: PaddleNLP's network with heads of any size (Mistral-Nemo's) and a head that may be tied."""

from __future__ import annotations

from typing import Any, Dict, List

from paddle import Tensor, nn
from paddle.distributed.fleet.utils.sequence_parallel_utils import mark_as_sequence_parallel_parameter
from paddlenlp.transformers import MistralForCausalLM as _MistralForCausalLM
from paddlenlp.transformers.mistral.modeling import MistralAttention, MistralMLP, MistralRMSNorm

from paddle_sft.models.networks.blocks import column_linear, give_heads, head_size, layers_of, row_linear
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
    of the padding token, which may be the end of a text too, is zero; it has no sequence parallelism."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for attention in layers_of(self, MistralAttention):
            give_heads(attention, config, qkv_bias=False)
        if config.sequence_parallel:
            _split_tokens(self, config)
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


def _split_tokens(model: nn.Layer, config: Any) -> None:
    """Give the layers what shares out tokens between the matrices, as PaddleNLP's Llama has it."""
    hidden, size = config.hidden_size, head_size(config)
    for attention in layers_of(model, MistralAttention):
        attention.q_proj = column_linear(config, hidden, config.num_attention_heads * size)
        attention.k_proj = column_linear(config, hidden, config.num_key_value_heads * size)
        attention.v_proj = column_linear(config, hidden, config.num_key_value_heads * size)
        attention.o_proj = row_linear(config, config.num_attention_heads * size, hidden)
    for mlp in layers_of(model, MistralMLP):
        mlp.gate_proj = column_linear(config, hidden, config.intermediate_size)
        mlp.up_proj = column_linear(config, hidden, config.intermediate_size)
        mlp.down_proj = row_linear(config, config.intermediate_size, hidden)
    for norm in layers_of(model, MistralRMSNorm):
        mark_as_sequence_parallel_parameter(norm.weight)
