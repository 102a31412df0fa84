"""Sequence classifiers in and out: logits, losses and gradients of transformers' ...ForSequenceClassification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.core.records import Sample
from paddle_sft.data.classes import Classes
from paddle_sft.data.collate import collate, collate_rows
from paddle_sft.models.classification import classes_of, load_classifier
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import unique_parameters
from paddle_sft.models.writer import write_model
from paddle_sft.stages.catalogue import STAGES
from tests.parity import cases
from tests.parity.asking import Reference

NAMES = ("bad", "good", "so so")
LENGTHS = (9, 1, 23, 14, 5)
TOLERANCE = 1e-5


def make_samples(several: bool = False) -> List[Sample]:
    random = np.random.default_rng(8)
    samples = []
    for number, length in enumerate(LENGTHS):
        label = [name for name in NAMES if random.random() < 0.5] if several else NAMES[number % 3]
        ids = random.integers(4, 384, length).astype(np.int32)
        samples.append(Sample(ids, np.zeros(length, dtype=bool), f"row {number}", json.dumps(label)))
    return samples


def ask(reference: Reference, folder: Path, samples: List[Sample], classes: Classes) -> Tuple[Dict[str, Any], Dict]:
    """transformers' answer, and its arrays."""
    labels = classes.targets([sample.label for sample in samples]).tolist()
    output = folder.parent / f"{folder.name}.found"
    answer = reference.ask(
        "classify", folder=folder, samples=[sample.ids.tolist() for sample in samples], labels=labels, output=output
    )
    return answer, load_file(str(output))


def our_scores(model: Any, samples: List[Sample]) -> np.ndarray:
    batch = collate(samples, 3)
    with paddle.no_grad():
        return STAGES["classification"].scores(model, batch).numpy()


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(theirs).max() > 0.3, "too small to tell anything"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize("shape", cases.SHAPES)
def test_a_language_model_with_a_new_head_is_the_classifier_that_transformers_reads(
    shape: str, reference: Reference, tmp_path: Path
) -> None:
    base = cases.make_base(reference, tmp_path / "base", shape)
    model = load_classifier(base, "float32", Classes(NAMES), seed=3).model
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", model, "hf")
    samples = make_samples()
    answer, arrays = ask(reference, tmp_path / "ours", samples, model.classes)
    assert answer["names"] == list(NAMES)
    assert_equal(our_scores(model, samples), arrays["logits"])


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
@pytest.mark.parametrize("family", cases.TRAINED_SHAPES)
def test_a_classifier_of_transformers_has_its_logits_loss_and_gradients_here_also_packed(
    family: str, several: bool, reference: Reference, tmp_path: Path
) -> None:
    kind = f"{'multi' if several else 'single'}_label_classification"
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}, "problem_type": kind}
    config = {**cases.SHAPES[cases.TRAINED_SHAPES[family]], **labels}
    reference.ask("make_classifier", folder=tmp_path / "theirs", config=config, seed=5)
    classes = classes_of(read_config(tmp_path / "theirs"), "theirs")
    assert classes == Classes(NAMES, several, known=True)
    model, samples = load_classifier(tmp_path / "theirs", "float32", classes).model, make_samples(several)
    answer, arrays = ask(reference, tmp_path / "theirs", samples, classes)
    assert_equal(our_scores(model, samples), arrays["logits"])
    theirs = {name[len("gradients/") :]: array for name, array in arrays.items() if name.startswith("gradients/")}
    for rows in ([[sample] for sample in samples], [samples[:3], samples[3:]]):
        loss = STAGES["classification"].loss(model, collate_rows(rows, 3)) / len(samples)
        model.clear_gradients()
        loss.backward()
        assert abs(float(loss) - answer["loss"]) < TOLERANCE
        ours = {name: parameter.grad.numpy() for name, parameter in unique_parameters(model).items()}
        assert not cases.beyond(cases.distances(cases.as_hugging_face(ours, family), theirs), TOLERANCE)
