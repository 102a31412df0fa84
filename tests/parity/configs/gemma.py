"""Gemma, the first: every kind of rope, heads of any size, tied and untied."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes

MINIMAL = dict(
    vocab_size=99, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=16
)  # fmt: skip


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    head = one_of(rng, 4, 6, 10, 16)
    return dict(
        model_type="gemma",
        **sizes(rng),
        head_dim=head,
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        tie_word_embeddings=one_of(rng, True, False),
        rope_parameters=rope(rng, KINDS[number], head // 2),
    )
