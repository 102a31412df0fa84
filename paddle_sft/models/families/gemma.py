"""Gemma, the first."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family
from paddle_sft.models.rope import FREQUENCIES, refuse_rope

FAMILY = Family(
    config_class="paddlenlp.transformers:GemmaConfig",
    model_class="paddlenlp.transformers:GemmaForCausalLM",
    hf_architecture="GemmaForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
        "attention_dropout": 0.0, "tie_word_embeddings": True, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    },
    # Old folders say gelu and mean the tanh form, which Gemma was trained with; transformers computes it so.
    only={
        "hidden_act": ("gelu_pytorch_tanh", "gelu"), "hidden_activation": ("gelu_pytorch_tanh", None),
        "attention_bias": (False,), "use_bidirectional_attention": (None, False),
    },
    refusals=(refuse_rope(*FREQUENCIES),),
    attention=("paddlenlp.transformers.gemma.modeling:GemmaAttention", "paddle_sft.models.networks.rotary:attend"),
    mend="paddle_sft.models.networks.gemma:use_tanh_gelu",
    splits=("tensor", "sequence", "pipeline", "sep", "stage3"),
    scales_embedding=True,
    norms=("GemmaRMSNorm",),
)  # fmt: skip
