"""Gemma 2: Gemma with capped scores and logits, four norms a layer, and windows in every other layer."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Config, Family
from paddle_sft.models.rope import FREQUENCIES, refuse_rope


def _window(config: Config, layer: int) -> int:
    kinds = config.get("layer_types")
    slides = kinds[layer] == "sliding_attention" if kinds else layer % 2 == 0
    return int(config.get("sliding_window") or 0) if slides else 0


FAMILY = Family(
    config_class="paddle_sft.models.networks.gemma2:Gemma2Config",
    model_class="paddle_sft.models.networks.gemma2:Gemma2ForCausalLM",
    hf_architecture="Gemma2ForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "intermediate_size": REQUIRED, "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
        "initializer_range": 0.02, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
        "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "sliding_window": 4096, "layer_types": None, "attention_dropout": 0.0, "tie_word_embeddings": True,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    },
    only={
        "hidden_activation": ("gelu_pytorch_tanh",), "attention_bias": (False,),
        "use_bidirectional_attention": (None, False),
    },
    inert=("cache_implementation", "hidden_act", "sliding_window_size"),
    refusals=(refuse_rope(*FREQUENCIES),),
    attention=("paddlenlp.transformers.gemma.modeling:GemmaAttention", "paddle_sft.models.networks.gemma2:attend"),
    mend="paddle_sft.models.networks.gemma:use_tanh_gelu",
    window=_window,
    beyond_kernels=lambda config: "a soft cap on scores" if config.get("attn_logit_softcapping") else "",
    splits=("tensor", "sequence", "pipeline", "sep", "stage3"),
    scales_embedding=True,
    norms=("GemmaRMSNorm",),
)  # fmt: skip
