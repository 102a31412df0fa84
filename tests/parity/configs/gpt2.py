"""GPT-2."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import one_of, special_ids

MINIMAL = dict(vocab_size=99, n_embd=24, n_layer=2, n_head=3)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    heads = one_of(rng, 1, 2, 3, 5)
    return dict(
        model_type="gpt2",
        vocab_size=int(rng.integers(60, 120)),
        n_embd=heads * one_of(rng, 4, 6, 10),
        n_inner=one_of(rng, None, 13, 50),
        n_layer=int(rng.integers(2, 4)),
        n_head=heads,
        n_positions=int(rng.integers(46, 70)),
        activation_function=one_of(rng, "gelu_new", "gelu", "relu", "tanh", "gelu_fast"),
        layer_norm_epsilon=one_of(rng, 1e-5, 1e-3),
        scale_attn_weights=number % 3 != 1,
        scale_attn_by_inverse_layer_idx=number % 2 == 1,
        reorder_and_upcast_attn=number == 2,
        initializer_range=0.15,
        tie_word_embeddings=number != 4,
        **special_ids(),
    )
