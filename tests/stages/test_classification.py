"""Metrics of classes against a slow count, and how samples make a step."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from paddle_sft.core.records import Sample
from paddle_sft.data.classes import Classes
from paddle_sft.data.collate import collate
from paddle_sft.losses.classification import label_loss_sum
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.stages.class_counts import ClassMeter
from tests import tiny


def slow_metrics(truth, found, several):
    """accuracy, precision, recall and F1 by class, macro F1: each from its definition, one sample at a time."""
    num = len(truth[0])
    by_class = []
    for index in range(num):
        hits = sum(1 for t, f in zip(truth, found) if t[index] and f[index])
        wrong = sum(1 for t, f in zip(truth, found) if not t[index] and f[index])
        missed = sum(1 for t, f in zip(truth, found) if t[index] and not f[index])
        precision = hits / (hits + wrong) if hits + wrong else 0.0
        recall = hits / (hits + missed) if hits + missed else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        by_class.append((precision, recall, f1, hits + wrong + missed > 0))
    counted = [f1 for _, _, f1, met in by_class if met or several]
    right = sum(1 for t, f in zip(truth, found) if list(t) == list(f)) / len(truth)
    return right, by_class, sum(counted) / len(counted)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_counts_give_the_metrics_of_their_definitions_and_classes_never_met_don_t_count(several, seed):
    random = np.random.default_rng(seed)
    classes = Classes(tuple("abcde"), several)
    scores = random.standard_normal((17, 5))
    scores[:, 4] = -5  # never predicted, and never there
    targets = (random.random((17, 5)) < 0.4).astype(np.float32) if several else random.integers(0, 4, 17)
    if several:
        targets[:, 4] = 0
    truth, found = classes.rows_of(targets), classes.predict(scores)
    meter, other = ClassMeter(classes.names, several), ClassMeter(classes.names, several)
    meter.count(1.5, truth[:5], found[:5])
    other.count(2.0, truth[5:], found[5:])
    meter.totals = meter.totals + other.totals  # as ranks do
    right, by_class, macro = slow_metrics(truth, found, several)
    metrics = meter.metrics(17)
    assert metrics["loss"] == pytest.approx(3.5 / 17)
    assert (metrics["accuracy"], metrics["f1"]) == (pytest.approx(right), pytest.approx(macro))
    counts = meter.counts(17)
    np.testing.assert_allclose(counts.precision, [one[0] for one in by_class])
    np.testing.assert_allclose(counts.recall, [one[1] for one in by_class])
    np.testing.assert_allclose(counts.f1, [one[2] for one in by_class])
    assert meter.lines(17)[2].split()[0] == "a" and len(meter.lines(17)) == 7


def test_a_table_of_many_classes_shows_the_most_frequent():
    meter = ClassMeter([f"c{index}" for index in range(80)], False)
    targets = np.repeat([77, 3], [5, 2])
    truth = np.eye(80, dtype=bool)[targets]
    meter.count(0.0, truth, truth)
    lines = meter.lines(7)
    assert [line.split()[0] for line in lines[2:4]] == ["c77", "c3"] and lines[
        -1
    ] == "and 30 classes with fewer samples"


@pytest.mark.parametrize("several", [False, True])
def test_losses_are_those_of_numpy(several):
    random = np.random.default_rng(0)
    scores = random.standard_normal((6, 3)).astype(np.float32)
    if several:
        targets = (random.random((6, 3)) < 0.5).astype(np.float32)
        chance = 1 / (1 + np.exp(-scores.astype(np.float64)))
        expected = -(targets * np.log(chance) + (1 - targets) * np.log(1 - chance)).mean(axis=1).sum()
    else:
        targets = random.integers(0, 3, 6)
        raised = np.exp(scores.astype(np.float64))
        expected = -np.log(raised[np.arange(6), targets] / raised.sum(axis=1)).sum()
    assert float(label_loss_sum(paddle.to_tensor(scores), paddle.to_tensor(targets))) == pytest.approx(
        expected, rel=1e-6
    )


def slow_scores(model, sample):
    """A text alone, its last token."""
    model.row_layout.set([[len(sample)]])
    with paddle.no_grad():
        return model(paddle.to_tensor(sample.ids[None].astype("int64"))).numpy()[0, -1]


@pytest.mark.parametrize("several", [False, True])
def test_the_scores_of_a_text_are_those_of_its_last_token_alone(model_folder, several):
    from paddle_sft.models.classification import load_classifier

    classes = Classes(("a", "b", "c"), several)
    model, stage = load_classifier(model_folder(), "float32", classes, 2).model, STAGES["classification"]
    label = json.dumps(["a"] if several else "a")
    samples = [Sample(one.ids, np.zeros(len(one), bool), one.place, label) for one in tiny.make_samples(4)]
    with paddle.no_grad():
        scores = stage.scores(model, collate(samples, 3)).numpy()
    np.testing.assert_allclose(scores, [slow_scores(model, sample) for sample in samples], rtol=1e-5, atol=1e-6)
    assert np.abs(scores).max() > 0.01


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_a_step_is_the_same_however_it_is_cut_into_batches(model_folder, tmp_path, packing):
    """8 x 1 = 1 x 8, with the mean over the samples of the whole step."""
    samples = tiny.labelled(tiny.make_samples(8, seed=3))
    trained = {}
    for rows, accumulation in ((8, 1), (1, 8), (3, 1)):
        model = tiny.load_classifier(model_folder(), trainable=True)
        trainer = tiny.make_trainer(
            model, tmp_path / f"{rows}{packing}", samples, stage="classification", shuffle=False, max_steps=1,
            packing=packing, max_length=256 if packing == "none" else 20, optim="adafactor",
            per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        trainer.train()
        trained[rows] = {name: array for name, array in tiny.snapshot(model).items()}
    for name, array in trained[8].items():
        np.testing.assert_allclose(array, trained[1][name], rtol=1e-5, atol=2e-6, err_msg=name)
    assert max(np.abs(array - trained[3][name]).max() for name, array in trained[8].items()) > 1e-4
