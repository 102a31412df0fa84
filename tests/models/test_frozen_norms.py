"""Gradients below a frozen layer norm are those below one that is trained."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.data.collate import collate
from paddle_sft.stages.catalogue import STAGES
from tests import tiny


def test_the_gradient_below_a_frozen_layer_norm_leaves_its_weight_out():
    """Worked around in models/frozen_norms.py (paddlepaddle 3.3.1). Red when upstream is mended: then it can go."""
    norm, found = nn.LayerNorm(6), []
    norm.weight.set_value(2.0 * paddle.ones([6]))
    for is_frozen in (False, True):
        norm.weight.stop_gradient = norm.bias.stop_gradient = is_frozen
        x = paddle.arange(12, dtype="float32").reshape([2, 6]).square()
        x.stop_gradient = False
        (norm(x) * paddle.arange(6, dtype="float32").square()).sum().backward()
        found.append(x.grad.numpy())
    np.testing.assert_allclose(found[1], found[0] / 2, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom"])
def test_a_weight_gets_the_same_gradient_whether_the_norms_above_are_frozen_or_not(model_folder, family):
    model = tiny.load(model_folder(family), trainable=True)
    model.eval()
    batch, first = collate(tiny.make_samples(3, seed=5), 3), model.get_input_embeddings().weight
    found, outputs = [], []
    for is_frozen in (False, True):
        for layer in model.sublayers():
            if isinstance(layer, nn.LayerNorm):
                layer.weight.stop_gradient = layer.bias.stop_gradient = is_frozen
        loss = STAGES["sft"].loss(model, batch)
        loss.backward()
        found.append(first.grad.numpy().copy())
        outputs.append(float(loss))
        model.clear_gradients()
    assert outputs[0] == outputs[1]
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5 * np.abs(found[0]).max())
