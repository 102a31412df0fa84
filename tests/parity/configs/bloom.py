"""BLOOM."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import one_of, special_ids

MINIMAL = dict(vocab_size=99, hidden_size=24, n_layer=2, n_head=3)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    heads = one_of(rng, 1, 2, 3, 4, 5, 6)  # ALiBi has one rule for powers of two, another for the rest
    return dict(
        model_type="bloom",
        vocab_size=int(rng.integers(60, 120)),
        hidden_size=heads * one_of(rng, 4, 6, 8),
        n_layer=int(rng.integers(1, 4)),
        n_head=heads,
        layer_norm_epsilon=one_of(rng, 1e-5, 1e-6),
        apply_residual_connection_post_layernorm=one_of(rng, True, False),
        initializer_range=0.15,
        **special_ids(),
    )
