"""Phi-3: longrope as its 128k models have it, parts of heads that turn, a window."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import one_of, rope, sizes

MINIMAL = dict(vocab_size=32064, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = sizes(rng)
    head = config["hidden_size"] // config["num_attention_heads"]
    share = one_of(rng, 0.5, 0.75) if number % 3 == 2 else 1.0
    if number % 2 and int(head * share) % 2:
        share = 1.0  # an odd part of a head turns in the default kind only
    turned = rope(rng, "longrope" if number % 2 else "default", int(head * share) // 2)
    turned.pop("factor", None)  # the ratio of the two lengths
    return dict(
        model_type="phi3",
        **config,
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=one_of(rng, 12, 32, 64),
        original_max_position_embeddings=turned.pop("original_max_position_embeddings", 12),
        sliding_window=one_of(rng, 4, 17) if number in (1, 4) else None,
        tie_word_embeddings=number == 3,
        rope_parameters={**turned, "partial_rotary_factor": share},
    )
