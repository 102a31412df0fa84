from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from paddle_sft.core.records import IGNORED
from paddle_sft.losses.head import Head, head_loss_sum, head_statistics


def slow(logits, labels):
    """(loss sum, trained, hits) token by token in double precision."""
    total, trained, hits = 0.0, 0, 0
    for row, targets in zip(logits.astype(np.float64), labels):
        for scores, target in zip(row, targets):
            if target == IGNORED:
                continue
            total -= scores[target] - scores.max() - math.log(np.exp(scores - scores.max()).sum())
            trained += 1
            hits += int(scores.argmax() == target)
    return total, trained, hits


def identity(logits):
    """The head that makes logits of themselves."""
    return Head(paddle.eye(logits.shape[-1]), False)


def token_loss_sum(logits, labels):
    return head_loss_sum(logits, labels, identity(logits))


def token_statistics(logits, labels):
    return head_statistics(logits, labels, identity(logits))


def batch(seed=0, shape=(3, 7), vocabulary=11, ignored=0.4):
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((*shape, vocabulary))).astype(np.float32)
    labels = random.integers(0, vocabulary, shape)
    labels[random.random(shape) < ignored] = IGNORED
    return logits, labels


@pytest.mark.parametrize("seed", range(4))
def test_the_sum_is_that_of_the_slow_oracle(seed):
    logits, labels = batch(seed)
    total, trained, hits = slow(logits, labels)
    assert float(token_loss_sum(paddle.to_tensor(logits), paddle.to_tensor(labels))) == pytest.approx(total, rel=1e-6)
    found = token_statistics(paddle.to_tensor(logits), paddle.to_tensor(labels))
    assert found == (pytest.approx(total, rel=1e-6), trained, hits)


def test_the_label_0_is_a_label_like_any_other():
    logits, labels = batch()
    labels[:] = 0
    assert token_statistics(paddle.to_tensor(logits), paddle.to_tensor(labels))[1] == labels.size


def test_ignored_positions_add_nothing_and_get_no_gradient():
    values, labels = batch(ignored=0.5)
    logits = paddle.to_tensor(values, stop_gradient=False)
    token_loss_sum(logits, paddle.to_tensor(labels)).backward()
    gradient = logits.grad.numpy()
    assert not gradient[labels == IGNORED].any()
    assert np.abs(gradient[labels != IGNORED]).max(axis=-1).min() > 0
    other = np.where((labels == IGNORED)[..., None], 99.0, values).astype(np.float32)  # whatever stands there
    assert float(token_loss_sum(paddle.to_tensor(other), paddle.to_tensor(labels))) == float(
        token_loss_sum(paddle.to_tensor(values), paddle.to_tensor(labels))
    )


def test_a_batch_without_trained_tokens_has_loss_zero_and_no_gradient():
    values, labels = batch(ignored=1.1)
    logits = paddle.to_tensor(values, stop_gradient=False)
    loss = token_loss_sum(logits, paddle.to_tensor(labels))
    loss.backward()
    assert float(loss) == 0.0 and not logits.grad.numpy().any()
    assert token_statistics(logits, paddle.to_tensor(labels)) == (0.0, 0, 0)


def test_tokens_whose_loss_is_exactly_zero_count():
    """PaddleNLP takes them out of the denominator: 3.912 instead of 1.956."""
    logits = np.zeros((1, 2, 50), np.float32)
    logits[0, 0, 7] = 1e4  # certain, so -log p is 0 in float32; the other token knows nothing
    labels = np.array([[7, 3]])
    total, trained, hits = token_statistics(paddle.to_tensor(logits), paddle.to_tensor(labels))
    assert trained == 2 and hits == 1
    assert total / trained == pytest.approx(math.log(50) / 2, rel=1e-6)  # 1.956
