"""Mixtral: Mistral with a mixture of experts in every layer."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family, router_loss
from paddle_sft.models.rope import FREQUENCIES, refuse_rope

FAMILY = Family(
    config_class="paddlenlp.transformers:MixtralConfig",
    model_class="paddle_sft.models.networks.mixtral:MixtralForCausalLM",
    hf_architecture="MixtralForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "initializer_range": 0.02, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": None,
        "num_local_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001, "output_router_logits": False,
        "head_dim": None, "attention_dropout": 0.0, "rope_scaling": None, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
    },
    only={"hidden_act": ("silu",), "router_jitter_noise": (0.0,)},
    aliases={"num_experts": "num_local_experts"},
    refusals=(refuse_rope(*FREQUENCIES), router_loss),
    attention=("paddlenlp.transformers.mixtral.modeling:MixtralAttention", "paddle_sft.models.networks.rotary:attend"),
    window=lambda config, layer: int(config.get("sliding_window") or 0),
    splits=("tensor", "pipeline", "sep", "stage3"),
    norms=("MixtralRMSNorm",),
)  # fmt: skip
