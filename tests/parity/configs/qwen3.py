"""Qwen 3: heads of any size, with and without biases, windows by layer, every kind of rope."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes, windows

MINIMAL = dict(vocab_size=99, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=32)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = sizes(rng)
    config["head_dim"] = one_of(rng, 4, 8, 10, 16)
    return dict(
        model_type="qwen3",
        **config,
        **windows(rng, number, config["num_hidden_layers"]),
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        attention_bias=number in (1, 2),
        tie_word_embeddings=number % 2 == 0,
        rope_parameters=rope(rng, KINDS[number - 3], config["head_dim"] // 2),
    )
