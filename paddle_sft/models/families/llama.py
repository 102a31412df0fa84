"""Llama 1 to 3.3, and what is built like it."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family
from paddle_sft.models.rope import FREQUENCIES, refuse_rope

FAMILY = Family(
    config_class="paddlenlp.transformers:LlamaConfig",
    model_class="paddle_sft.models.networks.llama:LlamaForCausalLM",
    hf_architecture="LlamaForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": None, "head_dim": None,
        "max_position_embeddings": 2048, "initializer_range": 0.02, "rms_norm_eps": 1e-6, "attention_bias": False,
        "mlp_bias": False, "attention_dropout": 0.0, "rope_theta": 10000.0, "rope_scaling": None,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
    },
    only={"hidden_act": ("silu",)},
    inert=("pretraining_tp",),
    refusals=(refuse_rope(*FREQUENCIES),),
    attention=("paddlenlp.transformers.llama.modeling:LlamaAttention", "paddle_sft.models.networks.rotary:attend"),
    splits=("tensor", "sequence", "pipeline", "sep", "stage3"),
    norms=("LlamaRMSNorm",),
)  # fmt: skip
