"""Models in and out: the same logits and gradients as transformers, to float32's rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.core.records import IGNORED
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.weights import INDEX_NAME, WEIGHTS_NAME
from paddle_sft.models.writer import write_model
from tests.parity import cases
from tests.parity.asking import Reference
from tests.plain import token_loss_sum

LOGIT_TOLERANCE = 2e-5
"""Largest difference of a logit; logits are of size 5."""
GRADIENT_TOLERANCE = 1e-5
"""Largest difference over the largest number, of each parameter's gradient."""


def require_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
    largest = np.abs(theirs).max()
    assert 2 < largest < 20, f"logits of size {largest:.1f}: the tolerance is meant for 5"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=LOGIT_TOLERANCE)


@pytest.fixture(scope="module", params=cases.SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(shape: str, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.make_base(reference, tmp_path_factory.mktemp(shape) / "base", shape)


def test_a_folder_of_transformers_gives_its_logits_here(base: Path, reference: Reference) -> None:
    ids = cases.input_ids()
    model = load_model(base, "float32").model
    require_equal_logits(cases.our_logits(model, ids), cases.reference_logits(reference, base, ids))


def test_a_folder_of_ours_gives_its_logits_in_transformers(base: Path, reference: Reference, tmp_path: Path) -> None:
    model = load_model(base, "float32").model
    for parameter in unique_parameters(model).values():  # other weights than those that transformers wrote
        parameter.set_value(parameter + 0.02 * paddle.randn(parameter.shape))
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", model, "hf")
    ids = cases.input_ids(seed=1)
    require_equal_logits(cases.our_logits(model, ids), cases.reference_logits(reference, tmp_path / "ours", ids))


@pytest.mark.parametrize("shape_", ["llama", "qwen2-tied", "bloom"])
def test_shards_are_read_and_written_like_one_file(shape_: str, reference: Reference, tmp_path: Path) -> None:
    theirs = cases.make_base(reference, tmp_path / "theirs", shape_, max_shard_size="60KB")
    model = load_model(theirs, "float32").model
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", model, "hf", max_shard_size="50KB")
    assert (theirs / INDEX_NAME).is_file() and (tmp_path / "ours" / INDEX_NAME).is_file()
    ids = cases.input_ids(seed=2)
    expected = cases.reference_logits(reference, theirs, ids)
    require_equal_logits(cases.our_logits(model, ids), expected)
    np.testing.assert_array_equal(cases.reference_logits(reference, tmp_path / "ours", ids), expected)


@pytest.mark.parametrize("shape_", ["llama", "qwen2-tied", "gemma", "bloom"])
def test_bfloat16_weights_are_read_exactly_and_written_unchanged(
    shape_: str, reference: Reference, tmp_path: Path
) -> None:
    theirs = cases.make_base(reference, tmp_path / "theirs", shape_, dtype="bfloat16")
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", load_model(theirs, "bfloat16").model, "hf")
    ids = cases.input_ids(seed=3)
    expected = cases.reference_logits(reference, theirs, ids)
    require_equal_logits(cases.our_logits(load_model(theirs, "float32").model, ids), expected)
    written, read = (folder / WEIGHTS_NAME for folder in (tmp_path / "ours", theirs))
    assert written.stat().st_size < 1.1 * read.stat().st_size, "written in another type"
    config = json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == "bfloat16"
    np.testing.assert_array_equal(cases.reference_logits(reference, tmp_path / "ours", ids), expected)


@pytest.mark.parametrize("family", cases.TRAINED_SHAPES)
def test_every_gradient_is_that_of_torch(family: str, reference: Reference, tmp_path: Path) -> None:
    base = cases.make_base(reference, tmp_path / "base", cases.TRAINED_SHAPES[family])
    ids = cases.input_ids(seed=4)
    labels = np.where(np.random.default_rng(4).random(ids.shape) < 0.5, ids, IGNORED)
    answer = reference.ask(
        "gradients", folder=base, input_ids=ids.tolist(), labels=labels.tolist(), output=tmp_path / "gradients"
    )
    model = load_model(base, "float32").model
    loss = mean_loss(model, ids, labels)
    loss.backward()
    ours = {name: parameter.grad.numpy() for name, parameter in unique_parameters(model).items()}
    theirs = load_file(str(tmp_path / "gradients"))
    assert abs(float(loss) - answer) < 1e-5
    assert not cases.beyond(cases.distances(cases.as_hugging_face(ours, family), theirs), GRADIENT_TOLERANCE)


def mean_loss(model: Any, ids: np.ndarray, labels: np.ndarray) -> paddle.Tensor:
    """Loss per trained token; labels [B, T] are not shifted."""
    for parameter in model.parameters():
        parameter.stop_gradient = False
    shifted = np.concatenate([labels[:, 1:], np.full((len(labels), 1), IGNORED)], axis=1)
    logits = model(input_ids=paddle.to_tensor(ids))
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    return token_loss_sum(logits, paddle.to_tensor(shifted)) / int((shifted != IGNORED).sum())
