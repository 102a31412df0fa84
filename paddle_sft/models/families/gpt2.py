"""GPT-2, and what has its network: DistilGPT2, DialoGPT."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Family, other_activation

FAMILY = Family(
    config_class="paddle_sft.models.networks.gpt2:GPT2Config",
    model_class="paddle_sft.models.networks.gpt2:GPT2ForCausalLM",
    hf_architecture="GPT2LMHeadModel",
    keys={
        "vocab_size": REQUIRED, "n_embd": REQUIRED, "n_layer": REQUIRED, "n_head": REQUIRED, "n_inner": None,
        "n_positions": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True, "bos_token_id": 50256,
        "eos_token_id": 50256, "pad_token_id": None,
    },
    only={"add_cross_attention": (False,)},
    # Attention upcast to float32 and reordered is the same number in float32. The summary_ keys are another head's.
    inert=(
        "n_ctx", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
        "summary_type", "summary_use_proj", "task_specific_params",
    ),
    aliases={
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions", "intermediate_size": "n_inner",
    },
    refusals=(other_activation("activation_function"),),
    attention=("paddle_sft.models.networks.gpt2:GPT2Attention", "paddle_sft.models.networks.gpt2:attend"),
    last_position="n_positions",
    buffers=(".attn.bias", ".attn.masked_bias"),
    trains_padding=True,
)  # fmt: skip
