"""Mixtral: 3 to 5 experts, 1 to 3 of them for a token, with and without a window and a tied head."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes

MINIMAL = dict(vocab_size=99, hidden_size=64, intermediate_size=20, num_hidden_layers=2, num_attention_heads=8)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = sizes(rng)
    head = config["hidden_size"] // config["num_attention_heads"]
    if KINDS[number] == "yarn" or number % 2:  # transformers asks for head_dim where yarn is
        head = config["head_dim"] = one_of(rng, 4, 10, 16)
    return dict(
        model_type="mixtral",
        **config,
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        num_local_experts=3 + number % 3,
        num_experts_per_tok=1 + number // 2,
        sliding_window=one_of(rng, 3, 8, 20) if number % 2 else None,
        tie_word_embeddings=number in (0, 3),
        rope_parameters=rope(rng, KINDS[number], head // 2),
    )
