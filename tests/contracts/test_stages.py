"""What every stage must hold: a stage listed in STAGES is tested from then on."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.data.collate import collate
from paddle_sft.stages.catalogue import STAGES
from tests import tiny

SAMPLES = tiny.make_samples(5, seed=4)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_loss_of_a_batch_is_the_sum_of_its_samples_losses(model_folder, name):
    """A mean would make a step depend on how it is cut into batches."""
    model, stage = tiny.load(model_folder()), STAGES[name]
    assert stage.name == name
    alone = [float(stage.loss(model, collate([sample], 3))) for sample in SAMPLES]
    assert float(stage.loss(model, collate(SAMPLES, 3))) == pytest.approx(sum(alone), rel=1e-6)
    assert min(alone) > 0


@pytest.mark.parametrize("name", sorted(STAGES))
def test_computing_a_loss_changes_no_weight(model_folder, name):
    model = tiny.load(model_folder(), trainable=True)
    before = tiny.snapshot(model)
    STAGES[name].loss(model, collate(SAMPLES, 3)).backward()
    for weight, array in tiny.snapshot(model).items():
        np.testing.assert_array_equal(array, before[weight])


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("name", sorted(STAGES))
def test_logits_are_for_every_token_of_every_row(model_folder, some_ids, name, family):
    with paddle.no_grad():
        logits = STAGES[name].logits(tiny.load(model_folder(family)), paddle.to_tensor(some_ids))
    assert list(logits.shape) == [3, 9, 96]
