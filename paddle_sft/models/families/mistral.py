"""Mistral, dense, with its sliding window; Mistral-Nemo."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family
from paddle_sft.models.rope import FREQUENCIES, refuse_rope

FAMILY = Family(
    config_class="paddlenlp.transformers:MistralConfig",
    model_class="paddle_sft.models.networks.mistral:MistralForCausalLM",
    hf_architecture="MistralForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 8, "head_dim": None, "max_position_embeddings": 131072,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "rope_theta": 10000.0,
        "rope_scaling": None, "sliding_window": 4096, "tie_word_embeddings": False, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": None,
    },
    only={"hidden_act": ("silu",)},
    refusals=(refuse_rope(*FREQUENCIES),),
    attention=("paddlenlp.transformers.mistral.modeling:MistralAttention", "paddle_sft.models.networks.mistral:attend"),
    window=lambda config, layer: int(config.get("sliding_window") or 0),
    splits=("tensor", "sequence", "pipeline", "sep", "stage3"),
    norms=("MistralRMSNorm",),
)  # fmt: skip
