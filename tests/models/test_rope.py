"""Rotary positions against the papers' formulas, written out here in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paddle_sft.models.rope import FREQUENCIES, rope_of
from paddle_sft.models.rotary_tables import RotaryTables

SIZES = dict(hidden_size=64, num_attention_heads=4, max_position_embeddings=2048, rope_theta=10000.0)
LONGROPE = dict(rope_type="longrope", short_factor=[1.0] * 8, long_factor=[float(n) for n in range(1, 9)])
SCALINGS = {
    "default": None,
    "linear": dict(rope_type="linear", factor=4.0),
    "dynamic": dict(rope_type="dynamic", factor=4.0),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=512),
    "longrope": dict(original_max_position_embeddings=512, **LONGROPE),
    "llama3": dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=512),
}  # fmt: skip


def rope(kind, **changes):
    return rope_of({**SIZES, "rope_scaling": SCALINGS[kind], **changes})


def usual(theta=10000.0, size=16):
    return theta ** (-np.arange(0, size, 2) / size)


def expected(kind, length):
    """[8] frequencies of heads of 16 numbers."""
    if kind == "default":
        return usual()
    if kind == "linear":
        return usual() / 4
    if kind == "dynamic":
        return usual(10000.0 * max(1.0, 4.0 * length / 2048 - 3) ** (16 / 14))
    if kind == "longrope":
        return usual() / (np.arange(1, 9) if length > 512 else 1)
    waves = 2 * math.pi / usual()
    if kind == "llama3":
        smooth = np.clip((512 / waves - 1) / (4 - 1), 0, 1)
        return usual() * (smooth + (1 - smooth) / 8)
    # YaRN: the pairs that turn 32 times and once within the original length, rounded outwards
    low, high = (16 * math.log(512 / (turns * 2 * math.pi)) / (2 * math.log(10000)) for turns in (32, 1))
    ramp = np.clip((np.arange(8) - math.floor(low)) / (math.ceil(high) - math.floor(low)), 0, 1)
    return usual() * (1 - ramp + ramp / 4)


@pytest.mark.parametrize("length", [7, 512, 513, 2048, 4096])
@pytest.mark.parametrize("kind", FREQUENCIES)
def test_a_pair_turns_as_its_kind_says(kind, length):
    np.testing.assert_allclose(rope(kind).frequencies(length), expected(kind, length), rtol=1e-6)


def test_attention_is_sharpened_where_texts_are_longer_than_the_model_was_trained_for():
    assert [rope(kind).attention_factor for kind in ("default", "linear", "dynamic", "llama3")] == [1.0] * 4
    assert rope("yarn").attention_factor == pytest.approx(1.138629, abs=1e-6)
    assert rope("longrope").attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(512)))
    # Phi-3 of 128k tokens: 131,072 / 4,096
    phi3 = rope("longrope", max_position_embeddings=131072, original_max_position_embeddings=4096)
    assert phi3.attention_factor == pytest.approx(1.190238, abs=1e-6)
    given = rope("yarn", rope_scaling={**SCALINGS["yarn"], "attention_factor": 0.5})
    assert given.attention_factor == 0.5
    scales = rope("yarn", rope_scaling={**SCALINGS["yarn"], "mscale": 0.5, "mscale_all_dim": 1.0})
    assert scales.attention_factor == pytest.approx(1.069315 / 1.138629, abs=1e-6)


def test_part_of_a_head_may_turn():
    assert rope("default", partial_rotary_factor=0.5).frequencies(9).shape == (4,)
    assert rope("default", head_dim=10, partial_rotary_factor=0.5).frequencies(9).shape == (3,)  # 5, rounded up


def test_a_config_without_a_theta_has_no_rotary_positions():
    assert rope_of({"hidden_size": 64, "num_attention_heads": 4}) is None


@pytest.mark.parametrize("kind", FREQUENCIES)
def test_a_packed_sample_finds_what_it_finds_alone(kind):
    tables = RotaryTables(rope(kind, max_position_embeddings=20, original_max_position_embeddings=12))
    lengths = [[5, 25, 12], [30, 12]]
    positions = np.stack([np.concatenate([np.arange(length) for length in row]) for row in lengths])
    cos, sin = (table.numpy() for table in tables.look_up(positions, lengths))
    assert cos.shape == (2, 42, 1, 16)
    for number, row in enumerate(lengths):
        for start, length in zip(np.cumsum([0] + row), row):
            fresh = RotaryTables(tables.rope).look_up(np.arange(length)[None], [[length]])
            for found, alone in zip((cos, sin), fresh):
                np.testing.assert_array_equal(found[number, start : start + length], alone.numpy()[0])


def test_positions_beyond_the_models_length_turn_on():
    """PaddleNLP's tables end there."""
    cos, _ = RotaryTables(rope("default", max_position_embeddings=8)).look_up(np.array([[3000]]), [[3001]])
    np.testing.assert_allclose(cos.numpy()[0, 0, 0, :8], np.cos(3000 * usual()), atol=2e-4)  # float32 of 3,000
