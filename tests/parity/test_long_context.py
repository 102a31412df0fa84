"""A model whose context was extended computes in transformers, from the config.json we write, what it computes here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.models.config import read_config
from paddle_sft.models.hub import load_model
from paddle_sft.models.long_context import KINDS, extend, scaled_positions
from paddle_sft.models.writer import write_model
from tests import tiny
from tests.parity.asking import Reference

IDS = np.random.default_rng(0).integers(4, 96, (1, 90))
"""Longer than the model was made for, shorter than it becomes."""


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("strategy", [name for name in KINDS if name != "RotaryEmbedding"])
def test_extended_positions_are_those_of_transformers(
    strategy: str, family: str, reference: Reference, tmp_path: Path
) -> None:
    base = tiny.make_model(tmp_path / "base", family, max_position_embeddings=32)
    model = load_model(base, "float32").model
    before = tiny.logits(model, IDS)
    extend(model, scaled_positions(read_config(base), strategy, 4.0, str(base)))
    ours = tiny.logits(model, IDS)
    for layout in ("hf", "paddle"):
        (tmp_path / layout).mkdir()
        write_model(tmp_path / layout, model, layout)
        again = tiny.logits(load_model(tmp_path / layout, "float32").model, IDS)
        np.testing.assert_array_equal(again, ours)
    reference.ask("logits", folder=tmp_path / "hf", input_ids=IDS.tolist(), output=tmp_path / "logits")
    theirs = load_file(str(tmp_path / "logits"))["logits"]
    assert np.abs(ours - before).max() > 0.01, "the strategy changes nothing"
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()
