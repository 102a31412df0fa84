"""Llama with heads of any size and with biases, which the class of paddlenlp 3.0.0b4 has no keys for."""

from __future__ import annotations

from typing import Any, Dict, List

from paddle import nn
from paddlenlp.transformers import LlamaForCausalLM as _LlamaForCausalLM
from paddlenlp.transformers.llama.modeling import LlamaAttention, LlamaMLP

from paddle_sft.models.networks.blocks import column_biases, column_linear, give_heads, layers_of, row_linear
from paddle_sft.models.renames import Piece, whole_pieces

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj")


class LlamaForCausalLM(_LlamaForCausalLM):
    """PaddleNLP's network; head_dim, attention_bias and mlp_bias are the config's."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        attention_bias = bool(getattr(config, "attention_bias", False))
        for attention in layers_of(self, LlamaAttention):
            give_heads(attention, config, attention_bias, attention_bias)
        if getattr(config, "mlp_bias", False):
            for mlp in layers_of(self, LlamaMLP):
                _give_biases(mlp, config)

    @classmethod
    def weight_pieces(cls, config: Any) -> List[Piece]:
        """PaddleNLP's, and the biases."""
        biased = [*_QKV, "self_attn.o_proj"] if getattr(config, "attention_bias", False) else []
        biased += [*_MLP, "mlp.down_proj"] if getattr(config, "mlp_bias", False) else []
        names = [f"layers.{number}.{name}.bias" for number in range(config.num_hidden_layers) for name in biased]
        return whole_pieces(cls, config) + [Piece(f"llama.{name}", f"model.{name}") for name in names]

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: Any, is_split: bool = True) -> Dict[str, Any]:
        actions = super()._get_tensor_parallel_mappings(config, is_split)
        biased = _QKV if getattr(config, "attention_bias", False) else ()
        return column_biases(config, actions, biased + (_MLP if getattr(config, "mlp_bias", False) else ()))


def _give_biases(mlp: nn.Layer, config: Any) -> None:
    mlp.gate_proj = column_linear(config, config.hidden_size, config.intermediate_size, has_bias=True)
    mlp.up_proj = column_linear(config, config.hidden_size, config.intermediate_size, has_bias=True)
    mlp.down_proj = row_linear(config, config.intermediate_size, config.hidden_size, has_bias=True)
    mlp._is_initialized = False  # PaddleNLP scales a fresh down_proj by the depth
