"""Qwen1.5-MoE and Qwen2-MoE: PaddleNLP's network with our experts' block, dense layers where the config has them."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, Dict, Iterator, List, Tuple

import paddle.nn.functional as F
from paddle import Tensor, nn
from paddlenlp.transformers import Qwen2MoeForCausalLM as _Qwen2MoeForCausalLM
from paddlenlp.transformers.qwen2_moe.modeling import Qwen2MoeMLP

from paddle_sft.models.networks.blocks import give_heads
from paddle_sft.models.networks.experts import Gate, SparseBlock
from paddle_sft.models.networks.tied import tie_head
from paddle_sft.models.renames import Piece, stacked_experts, whole_pieces

_DENSE = (("gate_proj", True), ("up_proj", True), ("down_proj", False))
"""The linear layers of a dense block, and whether tensor parallelism splits their columns."""

_UNKNOWN = {"qkv_bias": True, "mlp_only_layers": None}
"""Keys that PaddleNLP's config doesn't have -> transformers' defaults."""


class Qwen2MoeForCausalLM(_Qwen2MoeForCausalLM):
    """paddlenlp 3.0.0b4: the block crashes in forward with Paddle 3.3 (int64 with int32), drops tokens beyond a
    capacity, gives each data-parallel rank some of the experts, and weighs a token's experts otherwise; dense layers
    (mlp_only_layers, decoder_sparse_step), qkv_bias, the sliding window and a tied head are ignored."""

    def __init__(self, config: Any) -> None:
        for key, default in _UNKNOWN.items():
            setattr(config, key, getattr(config, key, default))
        with _dense_everywhere(config):
            super().__init__(config)
        self.num_experts = config.num_experts
        for number, layer in enumerate(self.qwen2_moe.layers):
            give_heads(layer.self_attn, config, config.qkv_bias)
            if is_sparse(config, number):
                layer.mlp = SharedExpertBlock(config)
        if config.tie_word_embeddings:
            tie_head(self)

    @classmethod
    def weight_pieces(cls, config: Any) -> List[Piece]:
        """One tensor for each expert's matrix; read also as transformers 5 has them in memory."""
        pieces = whole_pieces(cls, config)
        for number in range(config.num_hidden_layers):
            ours, theirs = f"qwen2_moe.layers.{number}.mlp", f"model.layers.{number}.mlp"
            if is_sparse(config, number):
                names = [f"{ours}.experts.{expert}.{{}}.weight" for expert in range(config.num_experts)]
                width = config.moe_intermediate_size
                pieces += stacked_experts(names, ("gate_proj", "up_proj", "down_proj"), f"{theirs}.experts", width)
            else:
                pieces += [Piece(f"{ours}.{name}.weight", f"{theirs}.{name}.weight", True) for name, _ in _DENSE]
        return pieces

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: Any, is_split: bool = True) -> Dict[str, Any]:
        from paddlenlp.transformers.conversion_utils import split_or_merge_func

        actions = super()._get_tensor_parallel_mappings(config, is_split)
        share = split_or_merge_func(
            is_split, config.tensor_parallel_degree, config.tensor_parallel_rank, config.num_attention_heads
        )
        for number in range(config.num_hidden_layers):
            if not is_sparse(config, number):
                for name, by_column in _DENSE:
                    actions[f"layers.{number}.mlp.{name}.weight"] = partial(share, is_column=by_column)
        return actions


class SharedExpertBlock(SparseBlock):
    """The experts' sum plus sigmoid(x w) shared_expert(x), an expert that every token goes to."""

    def __init__(self, config: Any) -> None:
        gate = Gate(config.hidden_size, config.num_experts, config.initializer_range)
        experts: List[nn.Layer] = [Qwen2MoeMLP(config) for _ in range(config.num_experts)]
        super().__init__(gate, experts, config.num_experts_per_tok, config.norm_topk_prob)
        self.shared_expert = Qwen2MoeMLP(config, is_shared=True)
        self.shared_expert_gate = Gate(config.hidden_size, 1, config.initializer_range)

    def forward(self, hidden_states: Tensor) -> Tuple[Tensor, Tensor]:
        mixed, logits = super().forward(hidden_states)
        shared = F.sigmoid(self.shared_expert_gate(hidden_states)) * self.shared_expert(hidden_states)
        return mixed + shared, logits


def is_sparse(config: Any, layer: int) -> bool:
    """Whether a layer (from 0) has experts."""
    is_step = config.num_experts > 0 and (layer + 1) % config.decoder_sparse_step == 0
    return is_step and layer not in (config.mlp_only_layers or ())


@contextlib.contextmanager
def _dense_everywhere(config: Any) -> Iterator[None]:
    """Let PaddleNLP build dense layers of intermediate_size, and no warning about windows."""
    changes = dict(num_experts=0, moe_intermediate_size=config.intermediate_size, sliding_window=None)
    before = {key: getattr(config, key) for key in changes}
    try:
        config.update(changes)
        yield
    finally:
        config.update(before)
