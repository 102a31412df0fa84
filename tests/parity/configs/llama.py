"""Llama: every kind of rope, heads of any size, biases, tied heads."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes

MINIMAL = dict(vocab_size=99, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = sizes(rng)
    head = config["hidden_size"] // config["num_attention_heads"]
    if number % 2:
        head = config["head_dim"] = one_of(rng, 4, 10, 16)
    return dict(
        model_type="llama",
        **config,
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        attention_bias=number in (1, 2, 4),
        mlp_bias=number in (0, 2, 5),
        tie_word_embeddings=one_of(rng, True, False),
        rope_parameters=rope(rng, KINDS[number], head // 2),
    )
