"""Rotary positions of real sizes: transformers' own tables, at the ends of texts of up to 131,072 tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.models.config import spell_as_paddlenlp
from paddle_sft.models.rope import rope_of
from paddle_sft.models.rotary_tables import RotaryTables
from tests.parity.asking import Reference

_FACTORS = np.random.default_rng(0).uniform(1, 64, (2, 48)).round(3).tolist()
MODELS: Dict[str, Dict[str, Any]] = {
    "llama 3.1 8B": dict(
        model_type="llama", hidden_size=4096, num_attention_heads=32, max_position_embeddings=131072,
        rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=8192),
    ),
    "llama, linear": dict(
        model_type="llama", hidden_size=4096, num_attention_heads=32, max_position_embeddings=16384,
        rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0),
    ),
    "llama, dynamic": dict(
        model_type="llama", hidden_size=4096, num_attention_heads=32, max_position_embeddings=4096,
        rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0),
    ),
    "qwen2.5 7B, yarn": dict(
        model_type="qwen2", hidden_size=3584, num_attention_heads=28, max_position_embeddings=131072,
        rope_parameters=dict(rope_type="yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=32768),
    ),
    "qwen3 8B": dict(
        model_type="qwen3", hidden_size=4096, num_attention_heads=32, head_dim=128, max_position_embeddings=40960,
        rope_parameters=dict(rope_type="default", rope_theta=1e6),
    ),
    "phi3 mini 128k": dict(
        model_type="phi3", hidden_size=3072, num_attention_heads=32, max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_parameters=dict(rope_type="longrope", rope_theta=1e4, short_factor=_FACTORS[0], long_factor=_FACTORS[1]),
    ),
}  # fmt: skip
LENGTHS = (4096, 4097, 131072)


@pytest.mark.parametrize("name", MODELS)
def test_long_texts_turn_as_in_transformers(name: str, reference: Reference, tmp_path: Path) -> None:
    reference.ask("rotary_tables", config=MODELS[name], lengths=LENGTHS, output=tmp_path / "tables")
    theirs = load_file(str(tmp_path / "tables"))
    rope = rope_of(spell_as_paddlenlp(MODELS[name]))
    for length in LENGTHS:
        frequencies, others = rope.frequencies(length), theirs[f"{length}/frequencies"]
        # transformers' powers are right to one bit, ours are rounded once
        np.testing.assert_allclose(frequencies, others, rtol=1.3e-7 if rope.kind != "dynamic" else 1e-6)
        positions = np.arange(length - 16, length)[None]
        tables = RotaryTables(rope).look_up(positions, [[length]])
        bits = np.abs(frequencies - others) * length  # what that bit makes of the angles at the end of the text
        for found, part in zip(tables, ("cos", "sin")):
            difference = np.abs(found.numpy()[0, :, 0] - theirs[f"{length}/{part}"])
            assert (difference <= 2e-6 + np.concatenate([bits, bits])).all(), f"{part} of {length} tokens"
        assert (frequencies == others).mean() > 0.9 or rope.kind == "dynamic"
