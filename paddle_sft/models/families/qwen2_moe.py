"""Qwen1.5-MoE and Qwen2-57B-A14B: experts, one of them shared by all tokens."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Config, Family, router_loss
from paddle_sft.models.rope import FREQUENCIES, refuse_rope


def window(config: Config, layer: int) -> int:
    """The window where use_sliding_window is on: in the layers that `layer_types` calls sliding, or else in every other
    layer, the first among them, below max_window_layers (unlike the dense family)."""
    kinds = config.get("layer_types")
    usual = layer % 2 == 0 and layer < config.get("max_window_layers", 28)
    slides = kinds[layer] == "sliding_attention" if kinds else usual
    return int(config.get("sliding_window") or 0) if slides and config.get("use_sliding_window") else 0


FAMILY = Family(
    config_class="paddlenlp.transformers:Qwen2MoeConfig",
    model_class="paddle_sft.models.networks.qwen2_moe:Qwen2MoeForCausalLM",
    hf_architecture="Qwen2MoeForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 16, "max_position_embeddings": 32768,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None,
        "head_dim": None, "attention_dropout": 0.0, "rope_scaling": None, "qkv_bias": True,
        "num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": False,
        "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1,
        "mlp_only_layers": None, "router_aux_loss_coef": 0.001, "output_router_logits": False,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    },
    only={"hidden_act": ("silu",)},
    refusals=(refuse_rope(*FREQUENCIES), router_loss),
    attention=(
        "paddlenlp.transformers.qwen2_moe.modeling:Qwen2MoeAttention", "paddle_sft.models.networks.rotary:attend",
    ),
    window=window,
    splits=("tensor", "pipeline", "sep", "stage3"),
    norms=("Qwen2MoeRMSNorm",),
)  # fmt: skip
