"""Positions that skip (PoSE): transformers reads the same ids at the same position_ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.data.pose import skip_positions
from paddle_sft.models.hub import load_model
from tests.parity import cases
from tests.parity.asking import Reference

REACH = 60


@pytest.mark.parametrize("shape", ["llama", "llama3-rope", "qwen3", "phi3", "gemma", "gpt2", "opt"])
def test_skipped_positions_compute_what_transformers_does(shape: str, reference: Reference, tmp_path: Path) -> None:
    """phi3 here is longrope whose short texts end at 24: what counts is how far the positions reach, in both."""
    base = cases.make_base(reference, tmp_path / "base", shape)
    ids = cases.input_ids(rows=1, length=15)
    positions = skip_positions(15, REACH, np.random.default_rng(5))
    assert positions[-1] > 30 and (np.diff(positions) > 1).sum() == 1
    question = dict(folder=base, input_ids=ids.tolist(), position_ids=[positions.tolist()], output=tmp_path / "logits")
    reference.ask("logits", **question)
    theirs = load_file(str(tmp_path / "logits"))["logits"]
    model = load_model(base, "float32").model.eval()
    model.row_layout.set([[15, 4]], np.append(positions, [0] * 4)[None])
    output = model(input_ids=paddle.to_tensor(np.append(ids, [[7] * 4], axis=1)))
    ours = (output[0] if isinstance(output, (tuple, list)) else output).numpy()
    assert 2 < np.abs(theirs).max() < 20
    np.testing.assert_allclose(ours[:, :15], theirs, rtol=0, atol=2e-5)
    assert np.abs(cases.our_logits(model, ids) - theirs).max() > 1e-3
