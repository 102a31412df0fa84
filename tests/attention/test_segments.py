"""Attention by segments against a slow masked oracle, forward and backward."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.attention import segments
from paddle_sft.attention.segments import Scoring, segment_attention
from paddle_sft.masks.segments import as_groups, dense_shared_prefix, shared_prefix_position_ids

CASES = [
    ([[1]], 0),
    ([[3, 5, 1], [9]], 0),
    ([[4, 4], [4, 4]], 0),
    ([[13]], 0),
    ([[13], [6, 7]], 3),
    ([[2, 11]], 20),
    ([[1, 1, 1]], 1),
    ([[[3, 2, 4], 1]], 0),  # a prompt with two answers
    ([[[5, 1], [4]], [[2, 1, 3, 1], 3]], 0),
    ([[[5, 2, 3], 3], [2, [4, 3, 4]]], 4),  # the window leaves the prompt inside the answers
    ([[[1, 1, 1, 1, 1]]], 1),
]


def oracle(query, key, value, lengths, scale, window, slopes):
    """One masked T x T softmax per row, in float64."""
    rows = []
    for number, row in enumerate(lengths):
        mask = dense_shared_prefix(as_groups(row), window)
        share = query.shape[2] // key.shape[2]
        keys = key[number].repeat_interleave(share, axis=1).transpose([1, 2, 0])
        values = value[number].repeat_interleave(share, axis=1).transpose([1, 0, 2])
        scores = scale * (query[number].transpose([1, 0, 2]) @ keys)
        if slopes is not None:
            positions = paddle.to_tensor(shared_prefix_position_ids(as_groups(row)).astype("float64"))
            scores = scores + slopes.reshape([-1, 1, 1]) * positions
        scores = paddle.where(paddle.to_tensor(mask), scores, paddle.full_like(scores, -1e300))
        rows.append((paddle.nn.functional.softmax(scores, axis=-1) @ values).transpose([1, 0, 2]))
    return paddle.stack(rows)


def draw(rows, width, seed=0):
    random = np.random.default_rng(seed)
    shapes = [(rows, width, 4, 8), (rows, width, 2, 8), (rows, width, 2, 8)]
    tensors = [paddle.to_tensor(random.standard_normal(shape)) for shape in shapes]
    for tensor in tensors:
        tensor.stop_gradient = False
    return tensors


@pytest.mark.parametrize("with_slopes", [False, True], ids=["plain", "alibi"])
@pytest.mark.parametrize("block", [3, 512], ids=["blocks of 3", "one block"])
@pytest.mark.parametrize(("lengths", "window"), CASES)
def test_segments_compute_what_one_masked_square_does(monkeypatch, lengths, window, block, with_slopes):
    monkeypatch.setattr(segments, "QUERY_BLOCK", block)
    slopes = paddle.to_tensor([0.5, 0.25, 0.1, 0.05], dtype="float64") if with_slopes else None
    width = sum(map(sum, as_groups(lengths[0])))
    found, expected = draw(len(lengths), width), draw(len(lengths), width)
    output = segment_attention(*found, lengths, Scoring(0.3, window, slopes))
    wanted = oracle(*expected, lengths, 0.3, window, slopes)
    np.testing.assert_allclose(output.numpy(), wanted.numpy(), rtol=0, atol=1e-10)
    weight = paddle.to_tensor(np.random.default_rng(1).standard_normal(output.shape))
    (output * weight).sum().backward()
    (wanted * weight).sum().backward()
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=0, atol=1e-10)


def test_no_score_is_computed_between_two_segments(monkeypatch):
    widths = []
    softmax = segments.F.softmax

    def counting(scores, axis):
        widths.append(list(scores.shape[-2:]))
        return softmax(scores, axis=axis)

    monkeypatch.setattr(segments.F, "softmax", counting)
    segment_attention(*draw(1, 12), [[7, 5]], Scoring(1.0))
    assert widths == [[7, 7], [5, 5]]


def test_no_score_is_computed_between_two_answers_to_a_prompt(monkeypatch):
    """Nor is the prompt's square computed twice: 3 + 4 + 2 queries, each against what it may see."""
    widths = []
    softmax = segments.F.softmax

    def counting(scores, axis):
        widths.append(list(scores.shape[-2:]))
        return softmax(scores, axis=axis)

    monkeypatch.setattr(segments.F, "softmax", counting)
    segment_attention(*draw(1, 9), [[[3, 4, 2]]], Scoring(1.0))
    assert widths == [[3, 3], [4, 7], [2, 5]]


def test_a_cap_bends_the_scores_before_the_mask():
    query, key, value = draw(1, 6)
    found = segment_attention(query, key, value, [[6]], Scoring(2.0, softcap=1.5)).numpy()[0]
    q, k, v = (tensor.numpy()[0] for tensor in (query, key, value))
    for head in range(4):
        scores = 1.5 * np.tanh(2.0 * q[:, head] @ k[:, head // 2].T / 1.5)
        weights = np.exp(scores) * np.tri(6)
        expected = weights / weights.sum(-1, keepdims=True) @ v[:, head // 2]
        np.testing.assert_allclose(found[:, head], expected, rtol=0, atol=1e-12)


def test_dropout_takes_a_share_of_the_weights_and_makes_the_others_larger():
    """Values that are the rows of a unit matrix show the weights."""
    paddle.seed(0)
    query, key = paddle.randn([1, 64, 4, 64], "float64"), paddle.randn([1, 64, 2, 64], "float64")
    value = paddle.eye(64, dtype="float64").reshape([1, 64, 1, 64]).expand([1, 64, 2, 64])
    plain = segment_attention(query, key, value, [[64]], Scoring(0.3)).numpy()
    found = segment_attention(query, key, value, [[64]], Scoring(0.3, dropout=0.25)).numpy()
    kept = found != 0
    np.testing.assert_allclose(found[kept], plain[kept] / 0.75, rtol=1e-12)
    seen = plain > 0
    assert abs(1 - kept[seen].mean() - 0.25) < 0.02  # of 8,320
    again = segment_attention(query, key, value, [[64]], Scoring(0.3, dropout=0.25)).numpy()
    assert ((again != 0) != kept).any()
