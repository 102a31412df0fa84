"""OPT, and Galactica, which has its network."""

from __future__ import annotations

from paddle_sft.models.family import REQUIRED, Config, Family, other_activation


def _projected_head(config: Config) -> str:
    """Refuse a head of its own beside narrower embeddings: the head's layer takes hidden_size numbers."""
    width = config.get("word_embed_proj_dim")
    narrow = width is not None and width != config.get("hidden_size")
    if config.get("tie_word_embeddings", True) or not narrow:
        return ""
    return f"tie_word_embeddings false with word_embed_proj_dim {width} (available where it is hidden_size)"


FAMILY = Family(
    config_class="paddle_sft.models.networks.opt:OPTConfig",
    model_class="paddle_sft.models.networks.opt:OPTForCausalLM",
    hf_architecture="OPTForCausalLM",
    keys={
        "vocab_size": REQUIRED, "hidden_size": REQUIRED, "num_hidden_layers": REQUIRED, "ffn_dim": REQUIRED,
        "num_attention_heads": REQUIRED, "max_position_embeddings": 2048, "do_layer_norm_before": True,
        "_remove_final_layer_norm": False, "word_embed_proj_dim": None, "activation_function": "relu", "dropout": 0.1,
        "attention_dropout": 0.0, "enable_bias": True, "layer_norm_elementwise_affine": True, "init_std": 0.02,
        "tie_word_embeddings": True, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1,
    },
    only={"layerdrop": (0.0,)},
    inert=("activation_dropout", "learned_embeddings", "prefix", "scale_embeddings"),
    # What PaddleNLP calls them, in folders that it wrote.
    aliases={
        "intermediate_size": "ffn_dim", "normalize_before": "do_layer_norm_before", "hidden_act": "activation_function",
        "hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout",
        "initializer_range": "init_std",
    },
    refusals=(other_activation("activation_function"), _projected_head),
    attention=("paddle_sft.models.networks.opt:OPTAttention", "paddle_sft.models.networks.opt:attend"),
    last_position="max_position_embeddings",
)  # fmt: skip
