"""Qwen2-MoE: 3 to 5 experts and a shared one, dense layers among the sparse ones, windows, biases, tied heads."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from tests.parity.configs.drawing import KINDS, one_of, rope, sizes

MINIMAL = dict(vocab_size=99, hidden_size=64, intermediate_size=20, num_hidden_layers=2, num_attention_heads=16)


def random_config(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    config = {**sizes(rng), "num_hidden_layers": 2 + number % 2}
    head = config["hidden_size"] // config["num_attention_heads"]
    return dict(
        model_type="qwen2_moe",
        **config,
        rms_norm_eps=one_of(rng, 1e-6, 1e-5),
        max_position_embeddings=32,
        num_experts=3 + number % 3,
        num_experts_per_tok=1 + number // 2,
        norm_topk_prob=number in (1, 2, 5),
        moe_intermediate_size=int(rng.integers(5, 30)),
        shared_expert_intermediate_size=int(rng.integers(5, 40)),
        decoder_sparse_step=2 if number == 1 else 1,
        mlp_only_layers=[0] if number == 2 else [],
        qkv_bias=number != 3,
        tie_word_embeddings=number in (0, 5),
        rope_parameters=rope(rng, KINDS[number], head // 2),
        **_windows(rng, number),
    )


def _windows(rng: np.random.Generator, number: int) -> Dict[str, Any]:
    """Off; where the family has them; in the layers that are named."""
    if number % 3 == 0:
        return dict(use_sliding_window=False)
    window = dict(use_sliding_window=True, sliding_window=one_of(rng, 3, 8, 20))
    if number % 3 == 1:
        return dict(max_window_layers=2, **window)
    return dict(layer_types=["full_attention", "sliding_attention", "sliding_attention"][: 2 + number % 2], **window)
