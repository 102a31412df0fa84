"""Hidden states and head give what the whole model gives, in every family."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.core.records import IGNORED
from paddle_sft.data.collate import collate
from paddle_sft.models.head import find_head, hidden_states
from paddle_sft.models.hub import unique_parameters
from paddle_sft.stages.catalogue import STAGES
from tests import tiny
from tests.plain import token_loss_sum

HEADS = [(family, {}) for family in tiny.CONFIGS] + [
    ("llama", dict(tie_word_embeddings=True)),
    ("llama", dict(vocab_size=32)),  # a square head: its shape doesn't say which side the tokens are on
    ("llama", dict(vocab_size=32, tie_word_embeddings=True)),
]


def build(family, changes):
    from paddle_sft.models.hub import build_from_scratch

    model = build_from_scratch(tiny.config(family, **changes), "float32", 0)
    for parameter in unique_parameters(model).values():
        parameter.set_value(parameter + 0.05 * paddle.randn(parameter.shape))
        parameter.stop_gradient = False
    return model


@pytest.mark.parametrize("family, changes", HEADS)
def test_hidden_states_and_head_make_the_models_logits(family, changes):
    model = build(family, changes)
    ids = paddle.to_tensor(np.random.default_rng(5).integers(4, 32, (3, 9)))
    expected = tiny.logits(model, ids)
    hidden = hidden_states(model, ids)
    found = find_head(model).logits(hidden.reshape([-1, hidden.shape[-1]])).numpy()
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


@pytest.mark.parametrize("family, changes", HEADS)
def test_loss_and_every_gradient_are_those_of_the_whole_logits(family, changes):
    model, stage = build(family, changes), STAGES["sft"]
    batch = collate(tiny.make_samples(5, seed=4, vocabulary=32), 3)
    assert (batch.labels == IGNORED).any()
    found = gradients(model, stage.loss(model, batch))
    logits = stage.logits(model, paddle.to_tensor(batch.input_ids), batch.segment_lengths)
    expected = gradients(model, token_loss_sum(logits, paddle.to_tensor(batch.labels)))
    assert sorted(found) == sorted(expected)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-6 * np.abs(gradient).max() + 1e-7, err_msg=name)


def gradients(model, loss):
    loss.backward()
    found = {name: p.grad.numpy().copy() for name, p in unique_parameters(model).items() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return {"loss": loss.numpy(), **found}
