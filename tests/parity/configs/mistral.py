"""Mistral: windows, heads of Mistral-Nemo's kind, tied heads, every kind of rope."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes

MINIMAL = dict(vocab_size=99, hidden_size=32, intermediate_size=20, num_hidden_layers=2, num_attention_heads=8)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = sizes(rng)
    head = config["hidden_size"] // config["num_attention_heads"]
    if number % 3:
        head = config["head_dim"] = one_of(rng, 4, 10, 16)
    return dict(
        model_type="mistral",
        **config,
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        sliding_window=one_of(rng, 1, 5, 16) if number % 2 else None,
        tie_word_embeddings=number in (0, 3),
        rope_parameters=rope(rng, KINDS[number - 1], head // 2),
    )
