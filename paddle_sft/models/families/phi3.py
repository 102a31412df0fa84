"""Phi-3 and Phi-4 of the mini and medium sizes."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family
from paddle_sft.models.rope import refuse_rope

FAMILY = Family(
    config_class="paddle_sft.models.networks.phi3:Phi3Config",
    model_class="paddle_sft.models.networks.phi3:Phi3ForCausalLM",
    hf_architecture="Phi3ForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": None, "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096, "initializer_range": 0.02, "rms_norm_eps": 1e-5,
        "attention_dropout": 0.0, "rope_theta": 10000.0, "rope_scaling": None, "partial_rotary_factor": 1.0,
        "sliding_window": None, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    only={"hidden_act": ("silu",), "resid_pdrop": (0.0,)},
    inert=("embd_pdrop",),  # transformers' network has no dropout there
    refusals=(refuse_rope("default", "longrope", partial=True),),
    rope_names={"su": "longrope", "yarn": "longrope"},
    attention=("paddlenlp.transformers.qwen2.modeling:Qwen2Attention", "paddle_sft.models.networks.phi3:attend"),
    window=lambda config, layer: int(config.get("sliding_window") or 0),
    splits=("tensor", "sequence", "pipeline", "sep", "stage3"),
    norms=("Qwen2RMSNorm",),
)  # fmt: skip
