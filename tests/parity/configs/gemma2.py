"""Gemma 2: caps, windows, scales, every kind of rope."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes

MINIMAL = dict(vocab_size=99, hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    head = one_of(rng, 4, 6, 10, 16)
    config = sizes(rng)
    # The norms behind attention and MLP divide by the size of what comes out. Of few numbers that is now and then next
    # to nothing, and then both sides are further from double precision than the tolerance.
    config["hidden_size"] *= -(-24 // config["hidden_size"])
    config.update(
        model_type="gemma2",
        head_dim=head,
        query_pre_attn_scalar=one_of(rng, 5, 24, 256),
        attn_logit_softcapping=one_of(rng, None, 0.5, 2.0, 50.0),
        final_logit_softcapping=one_of(rng, None, 1.0, 30.0),
        sliding_window=one_of(rng, 3, 11),
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        tie_word_embeddings=number % 3 != 1,
        rope_parameters=rope(rng, KINDS[number], head // 2),
    )
    if number % 2:  # else every other layer, from the first, slides
        kinds = ("full_attention", "sliding_attention")
        config["layer_types"] = [one_of(rng, *kinds) for _ in range(config["num_hidden_layers"])]
    return config
