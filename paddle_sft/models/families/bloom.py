"""BLOOM and BLOOMZ."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family

FAMILY = Family(
    config_class="paddlenlp.transformers:BloomConfig",
    model_class="paddle_sft.models.networks.bloom:BloomForCausalLM",
    hf_architecture="BloomForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "n_layer": REQUIRED, "n_head": REQUIRED,
        "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
    },
    only={"tie_word_embeddings": (True,)},
    aliases={"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
    inert=(
        "pretraining_tp", "slow_but_exact", "seq_length", "attention_softmax_in_fp32", "bias_dropout_fusion", "n_inner",
        "masked_softmax_fusion", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id",
    ),
    attention=("paddlenlp.transformers.bloom.modeling:BloomAttention", "paddle_sft.models.networks.bloom:attend"),
    beyond_kernels=lambda config: "ALiBi",
    trains_padding=True,
)  # fmt: skip
