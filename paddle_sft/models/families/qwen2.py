"""Qwen1.5, Qwen2 and Qwen2.5, dense."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family, other_head_size, other_rope, window_of_layer

FAMILY = Family(
    config_class="paddlenlp.transformers:Qwen2Config",
    model_class="paddlenlp.transformers:Qwen2ForCausalLM",
    hf_architecture="Qwen2ForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 32, "max_position_embeddings": 32768,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    },
    only={"hidden_act": ("silu",), "attention_dropout": (0.0,)},
    inert=("head_dim", "rope_scaling"),
    refusals=(other_rope("default"), other_head_size),
    attention=("paddlenlp.transformers.qwen2.modeling:Qwen2Attention", "paddle_sft.models.networks.rotary:attend"),
    window=window_of_layer,
    norms=("Qwen2RMSNorm",),
)  # fmt: skip
