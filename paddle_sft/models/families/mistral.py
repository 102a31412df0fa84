"""Mistral, dense, with its sliding window."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family, other_head_size, other_rope

FAMILY = Family(
    config_class="paddlenlp.transformers:MistralConfig",
    model_class="paddlenlp.transformers:MistralForCausalLM",
    hf_architecture="MistralForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 4096,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
    },
    only={"hidden_act": ("silu",), "attention_dropout": (0.0,), "tie_word_embeddings": (False,)},
    inert=("head_dim", "rope_scaling"),
    refusals=(other_rope("default"), other_head_size),
    attention=("paddlenlp.transformers.mistral.modeling:MistralAttention", "paddle_sft.models.networks.mistral:attend"),
    window=lambda config, layer: int(config.get("sliding_window") or 0),
    norms=("MistralRMSNorm",),
)  # fmt: skip
