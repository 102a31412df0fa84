"""What the families' generators share."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np


def one_of(rng: np.random.Generator, *values: Any) -> Any:
    """One of the values, as it is (numpy's own choice would make numpy numbers, which JSON doesn't take)."""
    return values[int(rng.integers(len(values)))]


def sizes(rng: np.random.Generator) -> Dict[str, Any]:
    """Vocabulary, widths, depth and heads; grouped keys divide the heads. Heads have 4, 6, 8 or 12 numbers."""
    groups, share, head = one_of(rng, 1, 2, 3), one_of(rng, 1, 2, 3), one_of(rng, 4, 6, 8, 12)
    return dict(
        vocab_size=int(rng.integers(60, 120)),
        hidden_size=groups * share * head,
        intermediate_size=int(rng.integers(10, 60)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=groups * share,
        num_key_value_heads=groups,
        initializer_range=0.15,
        **special_ids(),
    )


def special_ids() -> Dict[str, int]:
    """Ids inside every vocabulary drawn here; the defaults of some families are not."""
    return dict(bos_token_id=1, eos_token_id=2, pad_token_id=3)


def rope(rng: np.random.Generator, kind: str, num_pairs: int = 0) -> Dict[str, Any]:
    """rope_parameters of a kind whose lengths lie among the samples' (2 to 45 tokens).

    Args:
        num_pairs: pairs of a head that turn, of which longrope has a list.
    """
    found = {"rope_type": kind, "rope_theta": one_of(rng, 100.0, 1e4, 5e5)}
    if kind != "default":
        found["factor"] = one_of(rng, 1.5, 4.0, 8.0)
    if kind == "llama3":
        found.update(low_freq_factor=1.0, high_freq_factor=one_of(rng, 2.0, 4.0))
    if kind == "yarn":
        found.update(one_of(rng, {}, {"beta_fast": 8.0, "beta_slow": 0.5}, {"attention_factor": 0.9}))
        found.update(one_of(rng, {}, {"truncate": False}, {"mscale": 0.8, "mscale_all_dim": 1.1}))
    if kind == "longrope":
        for name in ("short_factor", "long_factor"):
            found[name] = [round(float(number), 3) for number in rng.uniform(1, 9, num_pairs)]
    if kind in ("llama3", "yarn", "longrope"):
        found["original_max_position_embeddings"] = one_of(rng, 12, 24)
    return found


KINDS = ("linear", "dynamic", "yarn", "longrope", "llama3", "default")
"""One for each of the random configs of a family."""


def windows(rng: np.random.Generator, number: int, num_layers: int) -> Dict[str, Any]:
    """The keys of Qwen's windows: none, those that are off, layers from one on, or layers by their type."""
    if number % 3 == 0:
        return one_of(rng, {}, {"use_sliding_window": False, "sliding_window": 3, "max_window_layers": 0})
    found = {"use_sliding_window": True, "sliding_window": one_of(rng, 3, 11)}
    if number % 3 == 1:
        return {**found, "max_window_layers": int(rng.integers(num_layers))}
    kinds = ("sliding_attention", "full_attention")
    return {**found, "layer_types": [kinds[int(rng.integers(2))] for _ in range(num_layers)]}
