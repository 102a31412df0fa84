"""Positions that skip (PoSE) reach every kind of position a model has, alone and packed."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.catalogue import FAMILIES, require_skips
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_from_scratch, unique_parameters
from tests import tiny

SAMPLES = [[5, 17, 90, 3, 8], [1, 77, 20]]
POSITIONS = [[0, 1, 40, 41, 42], [0, 150, 151]]
DYNAMIC = dict(max_position_embeddings=16, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
LONGROPE = dict(
    original_max_position_embeddings=64,
    rope_scaling={"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 9.0]},
)  # one sample above reaches beyond 64, the other doesn't


def build(tmp_path, family, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny.config(family, **changes)), encoding="utf-8")
    model = build_from_scratch(read_config(path), "float32", seed=3)
    for parameter in unique_parameters(model).values():
        parameter.set_value(parameter + 0.05 * paddle.randn(parameter.shape))
    return model.eval()


def logits(model, ids, segments, positions=None):
    model.row_layout.set([segments], None if positions is None else np.array([positions]))
    output = model(input_ids=paddle.to_tensor([ids]))
    return (output[0] if isinstance(output, (tuple, list)) else output).numpy()[0]


CASES = [("llama", {}), ("gemma2", dict(sliding_window=300)), ("opt", {}), ("gpt2", {}), ("llama", DYNAMIC)]
CASES.append(("phi3", dict(LONGROPE, sliding_window=None)))


@pytest.mark.parametrize("family, changes", CASES)
def test_a_packed_sample_with_skips_gets_what_it_gets_alone(tmp_path, family, changes):
    model = build(tmp_path, family, **changes)
    alone = [logits(model, ids, [len(ids)], where) for ids, where in zip(SAMPLES, POSITIONS)]
    packed = logits(model, sum(SAMPLES, []) + [0] * 3, [5, 3, 3], sum(POSITIONS, []) + [0] * 3)
    np.testing.assert_allclose(packed[:8], np.concatenate(alone), atol=1e-5)
    usual = [logits(model, ids, [len(ids)]) for ids in SAMPLES]
    for one, other in zip(alone, usual):
        assert np.abs(one[1:] - other[1:]).max() > 1e-4


@pytest.mark.parametrize("family, changes, length", [("llama", {}, None), ("llama", DYNAMIC, 43)])
def test_a_token_turns_by_its_position_as_in_a_text_that_is_as_long(tmp_path, family, changes, length):
    """The formula of each kind, token by token and pair by pair, in float64."""
    layout = build(tmp_path, family, **changes).row_layout
    layout.set([[5]], np.array([POSITIONS[0]]))
    cos, sin = (table.numpy()[0, :, 0] for table in layout.rotary(1, 5, 0, "float32"))
    size, theta = 8, 50000.0
    if length:  # dynamic NTK: theta * (factor * length / 16 - (factor - 1)) ** (size / (size - 2))
        theta *= (4.0 * length / 16 - 3.0) ** (size / (size - 2))
    for token, position in enumerate(POSITIONS[0]):
        for number in range(size):
            angle = position * theta ** (-2 * (number % (size // 2)) / size)
            assert abs(cos[token, number] - np.cos(angle)) < 1e-5 and abs(sin[token, number] - np.sin(angle)) < 1e-5


@pytest.mark.parametrize("family, table, offset", [("gpt2", "wpe", 0), ("opt", "embed_positions", 2)])
def test_a_token_gets_the_vector_of_its_position(tmp_path, family, table, offset):
    model = build(tmp_path, family)
    found = logits(model, SAMPLES[0], [5], POSITIONS[0])
    names = [name for name in unique_parameters(model) if table in name or "position" in name]
    assert len(names) == 1, list(unique_parameters(model))
    weight = unique_parameters(model)[names[0]]
    moved = weight.numpy().copy()
    for token, position in enumerate(POSITIONS[0]):
        moved[offset + token] = weight.numpy()[offset + position]
    weight.set_value(moved)
    np.testing.assert_allclose(found, logits(model, SAMPLES[0], [5]), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_whose_positions_can_not_skip_is_refused_by_name(family):
    config = tiny.config(family, **({"sliding_window": None} if family in ("phi3", "gemma2") else {}))
    if family == "bloom":
        with pytest.raises(ArgumentError, match="use_pose_convert skips positions, and a bloom model has none"):
            require_skips(config, 100)
        return
    require_skips(config, 100)
    if family in ("opt", "gpt2"):
        with pytest.raises(ArgumentError, match="pose_max_length is 1,000, and the model has vectors for 256 pos"):
            require_skips(config, 1000)


def test_a_window_smaller_than_the_skips_is_refused():
    with pytest.raises(ArgumentError, match="2 layers of the model look back over 50 tokens only"):
        require_skips(tiny.config("mistral", sliding_window=50), 51)
    require_skips(tiny.config("mistral", sliding_window=51), 51)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_position_without_a_vector_is_refused(tmp_path, family):
    model = build(tmp_path, family)
    logits(model, SAMPLES[1], [3], [0, 1, 255])
    with pytest.raises(ModelError, match="257 tokens is longer than the 256 positions"):
        logits(model, SAMPLES[1], [3], [0, 1, 256])
