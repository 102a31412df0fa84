"""What every stage must hold: a stage listed in STAGES is tested from then on."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.data.collate import collate, collate_rows
from paddle_sft.stages.catalogue import STAGES
from tests import tiny

SAMPLES = tiny.make_samples(5, seed=4)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_loss_of_a_batch_is_the_sum_of_its_samples_losses(model_folder, name):
    """A mean would make a step depend on how it is cut into batches."""
    model, stage, samples = tiny.load_for(name, model_folder()), STAGES[name], tiny.samples_for(name, SAMPLES)
    assert stage.name == name
    alone = [float(stage.loss(model, collate([sample], 3))) for sample in samples]
    for rows in ([[sample] for sample in samples], [samples[:2], samples[2:]]):  # packed, too
        assert float(stage.loss(model, collate_rows(rows, 3))) == pytest.approx(sum(alone), rel=1e-6)
    assert min(alone) > 0


@pytest.mark.parametrize("name", sorted(STAGES))
def test_computing_a_loss_changes_no_weight(model_folder, name):
    model = tiny.load_for(name, model_folder(), trainable=True)
    before = tiny.snapshot(model)
    STAGES[name].loss(model, collate(tiny.samples_for(name, SAMPLES), 3)).backward()
    for weight, array in tiny.snapshot(model).items():
        np.testing.assert_array_equal(array, before[weight])


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("name", sorted(STAGES))
def test_logits_are_for_every_token_of_every_row(model_folder, some_ids, name, family):
    with paddle.no_grad():
        logits = STAGES[name].logits(tiny.load_for(name, model_folder(family)), paddle.to_tensor(some_ids))
    assert list(logits.shape) == [3, 9, 3 if name == "classification" else 96]


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_meter_adds_up_to_the_loss_of_all_samples_however_they_are_cut(model_folder, name):
    model, stage, samples = tiny.load_for(name, model_folder()), STAGES[name], tiny.samples_for(name, SAMPLES)
    total = float(stage.loss(model, collate(samples, 3)))
    for cut in (1, 2, 5):
        meter = stage.meter(model)
        for start in range(0, len(samples), cut):
            batch = collate(samples[start : start + cut], 3)
            with paddle.no_grad():
                meter.add(stage.outputs(model, batch), batch)
        metrics = meter.metrics(len(samples))
        assert metrics["loss"] == pytest.approx(total / sum(sample.num_trained for sample in samples), rel=1e-6)
        assert 0 <= metrics["accuracy"] <= 1
