"""Mixtral: PaddleNLP's network with our experts' block."""

from __future__ import annotations

from typing import Any, List

from paddlenlp.transformers import MixtralForCausalLM as _MixtralForCausalLM

from paddle_sft.models.networks.blocks import give_heads
from paddle_sft.models.networks.experts import Gate, SparseBlock
from paddle_sft.models.networks.tied import tie_head
from paddle_sft.models.renames import Piece, stacked_experts, whole_pieces


class MixtralForCausalLM(_MixtralForCausalLM):
    """paddlenlp 3.0.0b4: the block crashes in forward with Paddle 3.3 (a token's weight is indexed by columns), and a
    tied head isn't tied."""

    def __init__(self, config: Any) -> None:
        window, config.sliding_window = config.sliding_window, None  # it would warn that windows are ignored
        super().__init__(config)
        config.sliding_window = window
        for layer in self.mixtral.layers:
            give_heads(layer.self_attn, config, qkv_bias=False)
            gate = Gate(config.hidden_size, config.num_local_experts, config.initializer_range)
            experts = list(layer.block_sparse_moe.experts)
            for expert in experts:  # built for several ranks they have another order, in which adapters would be drawn
                for name in ("w1", "w2", "w3"):
                    expert.add_sublayer(name, expert._sub_layers.pop(name))
            layer.block_sparse_moe = SparseBlock(gate, experts, config.num_experts_per_tok, normalised=True)
        if config.tie_word_embeddings:
            tie_head(self)

    @classmethod
    def weight_pieces(cls, config: Any) -> List[Piece]:
        """One tensor for each expert's matrix; read also as transformers 5 has them in memory."""
        pieces = whole_pieces(cls, config)
        for number in range(config.num_hidden_layers):
            ours, theirs = f"mixtral.layers.{number}.block_sparse_moe", f"model.layers.{number}.mlp"
            pieces.append(Piece(f"{ours}.gate.weight", f"{theirs}.gate.weight", transposed=True, second=True))
            names = [f"{ours}.experts.{expert}.{{}}.weight" for expert in range(config.num_local_experts)]
            pieces += stacked_experts(names, ("w1", "w3", "w2"), f"{theirs}.experts", config.intermediate_size)
        return pieces
