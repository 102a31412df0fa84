"""Qwen 2: windows by layer, every kind of rope."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes, windows

MINIMAL = dict(vocab_size=99, hidden_size=64, intermediate_size=20, num_hidden_layers=2, num_attention_heads=32)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = sizes(rng)
    head = config["hidden_size"] // config["num_attention_heads"]
    if number == 4:
        head = config["head_dim"] = 10
    return dict(
        model_type="qwen2",
        **config,
        **windows(rng, number, config["num_hidden_layers"]),
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        tie_word_embeddings=one_of(rng, True, False),
        rope_parameters=rope(rng, KINDS[number - 2], head // 2),
    )
