"""The chunked head gives what cross entropy over the whole logits gives: loss, every gradient, every count."""

from __future__ import annotations

from itertools import product

import numpy as np
import paddle
import pytest

from paddle_sft.core.records import IGNORED
from paddle_sft.losses import head as head_module
from paddle_sft.losses.head import Head, head_loss_sum, head_statistics
from paddle_sft.operators.cpu import is_compiled_for
from tests.plain import token_loss_sum

HIDDEN, WORDS = 8, 37


@pytest.fixture(params=[200, 2**20], ids=["many chunks", "one chunk"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(head_module, "CHUNK_BYTES", request.param)


def make(seed, is_embedding=True, bias=False, softcap=0.0, shape=(2, 9), ignored=0.4):
    random = np.random.default_rng(seed)

    def tensor(*size):
        return paddle.to_tensor(random.standard_normal(size).astype("float32"), stop_gradient=False)

    labels = random.integers(0, WORDS, shape)
    labels[random.random(shape) < ignored] = IGNORED
    weight = tensor(WORDS, HIDDEN) if is_embedding else tensor(HIDDEN, WORDS)
    return (
        tensor(*shape, HIDDEN),
        paddle.to_tensor(labels),
        Head(weight, is_embedding, tensor(WORDS) if bias else None, softcap),
    )


def whole_logits(hidden, head):
    scores = paddle.matmul(hidden, head.weight, transpose_y=head.is_embedding)
    scores = scores if head.bias is None else scores + head.bias
    return head.softcap * paddle.tanh(scores / head.softcap) if head.softcap else scores


def loss_and_gradients(loss, tensors):
    (0.25 * loss).backward()
    found = [float(loss)] + [None if one.grad is None else one.grad.numpy().copy() for one in tensors]
    for tensor in tensors:
        tensor.clear_gradient(False)
    return found


@pytest.mark.parametrize("is_embedding, bias, softcap", product([True, False], [True, False], [0.0, 2.0]))
def test_loss_and_gradients_are_those_of_the_whole_logits(chunks, is_embedding, bias, softcap):
    for seed, shape in enumerate([(2, 9), (1, 1), (3, 7), (1, 33)]):
        hidden, labels, head = make(seed, is_embedding, bias, softcap, shape, ignored=0.0 if shape == (1, 1) else 0.4)
        tensors = [hidden, head.weight] + ([head.bias] if bias else [])
        expected = loss_and_gradients(token_loss_sum(whole_logits(hidden, head), labels), tensors)
        found = loss_and_gradients(head_loss_sum(hidden, labels, head), tensors)
        for ours, theirs in zip(found, expected):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * max(1.0, np.abs(theirs).max()))


def test_a_frozen_head_gets_no_gradient_and_changes_none(chunks):
    hidden, labels, head = make(1, bias=True)
    expected = loss_and_gradients(head_loss_sum(hidden, labels, head), [hidden, head.weight, head.bias])
    head.weight.stop_gradient = head.bias.stop_gradient = True
    found = loss_and_gradients(head_loss_sum(hidden, labels, head), [hidden, head.weight, head.bias])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[2] is None and found[3] is None


def test_a_head_is_trained_over_frozen_hidden_states(chunks):
    hidden, labels, head = make(2)
    expected = loss_and_gradients(head_loss_sum(hidden, labels, head), [head.weight])
    hidden.stop_gradient = True
    found = loss_and_gradients(head_loss_sum(hidden, labels, head), [head.weight])
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_batch_without_trained_tokens_has_loss_zero_and_no_gradient():
    hidden, labels, head = make(3, ignored=1.1)
    loss, gradient = loss_and_gradients(head_loss_sum(hidden, labels, head), [hidden])
    assert loss == 0.0 and not gradient.any()
    assert head_statistics(hidden, labels, head) == (0.0, 0, 0)


def test_positions_that_are_not_trained_are_never_computed(monkeypatch):
    hidden, labels, head = make(4)
    seen = []
    scores = Head.scores
    monkeypatch.setattr(Head, "scores", lambda self, states, *room: seen.append(len(states)) or scores(self, states))
    head_loss_sum(hidden, labels, head)
    assert sum(seen) == int((labels != IGNORED).sum()) < labels.size


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_no_chunk_is_larger_than_the_limit(monkeypatch, softcap):
    monkeypatch.setattr(head_module, "CHUNK_BYTES", 5 * WORDS * 4)
    hidden, labels, head = make(5, shape=(4, 11), softcap=softcap)
    sizes = []
    scores = Head.scores
    monkeypatch.setattr(Head, "scores", lambda self, states, *room: sizes.append(len(states)) or scores(self, states))
    head_loss_sum(hidden, labels, head)
    limit = 5 if softcap or not is_compiled_for(hidden) else 10  # gradients take the logits' place
    assert len(sizes) > 2 and limit - 2 <= max(sizes) <= limit


def test_batches_of_all_sizes_share_the_room_for_logits():
    """Of two losses the backward passes may come after both forward passes."""
    made = [make(seed, shape=shape) for seed, shape in ((1, (1, 4)), (2, (3, 20)), (3, (2, 5)))]
    losses = [head_loss_sum(*one) for one in made]
    for (hidden, labels, head), loss in zip(made, losses):
        inputs = [hidden, head.weight]
        found = loss_and_gradients(loss, inputs)
        expected = loss_and_gradients(token_loss_sum(whole_logits(hidden, head), labels), inputs)
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_statistics_are_those_of_the_whole_logits(chunks, softcap):
    hidden, labels, head = make(6, softcap=softcap)
    logits, targets = whole_logits(hidden, head).numpy(), labels.numpy()
    trained = targets != IGNORED
    loss, num, hits = head_statistics(hidden, labels, head)
    assert loss == pytest.approx(float(token_loss_sum(whole_logits(hidden, head), labels)), rel=1e-6)
    assert num == trained.sum() and hits == (logits.argmax(-1) == targets)[trained].sum()
