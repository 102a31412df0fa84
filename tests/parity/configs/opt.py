"""OPT."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import one_of, special_ids

MINIMAL = dict(vocab_size=99, hidden_size=24, num_hidden_layers=2, ffn_dim=20, num_attention_heads=3)

ZERO_GRADIENTS = (r"k_proj\.bias",)
"""What is added to all keys alike adds the same to all scores of a query, which softmax doesn't see."""


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    heads = one_of(rng, 1, 2, 3, 5)
    hidden_size = heads * one_of(rng, 4, 6, 10)
    config = dict(
        model_type="opt",
        vocab_size=int(rng.integers(60, 120)),
        hidden_size=hidden_size,
        ffn_dim=int(rng.integers(10, 60)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        max_position_embeddings=int(rng.integers(46, 70)),
        do_layer_norm_before=number % 3 != 1,
        _remove_final_layer_norm=number == 2,
        activation_function=one_of(rng, "relu", "gelu", "gelu_new", "silu", "quick_gelu"),
        enable_bias=number != 3,
        layer_norm_elementwise_affine=number != 4,
        init_std=0.15,
        tie_word_embeddings=number != 5,
        **special_ids(),
    )
    if number % 2 == 0:
        config["word_embed_proj_dim"] = int(rng.integers(4, hidden_size + 4))
    return config
