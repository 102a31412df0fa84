"""Qwen1.5, Qwen2 and Qwen2.5, dense."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family, window_of_layer
from paddle_sft.models.rope import FREQUENCIES, refuse_rope

FAMILY = Family(
    config_class="paddlenlp.transformers:Qwen2Config",
    model_class="paddle_sft.models.networks.qwen2:Qwen2ForCausalLM",
    hf_architecture="Qwen2ForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 32, "head_dim": None, "max_position_embeddings": 32768,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "rope_theta": 10000.0,
        "rope_scaling": None, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
        "layer_types": None, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None,
    },
    only={"hidden_act": ("silu",)},
    refusals=(refuse_rope(*FREQUENCIES),),
    attention=("paddlenlp.transformers.qwen2.modeling:Qwen2Attention", "paddle_sft.models.networks.rotary:attend"),
    window=window_of_layer,
    splits=("tensor", "sequence", "pipeline", "sep", "stage3"),
    norms=("Qwen2RMSNorm",),
)  # fmt: skip
