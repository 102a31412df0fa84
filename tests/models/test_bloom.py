"""BLOOM's first weights, and its slopes where heads are spread over ranks; tests/parity compares the rest."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddle_sft.models.hub import build_from_scratch
from paddle_sft.models.networks.bloom import alibi_slopes, attend
from tests import tiny


def test_a_fresh_bloom_has_the_spread_of_its_config():
    arrays = tiny.snapshot(build_from_scratch(tiny.config("bloom", hidden_size=64), "float32", 0).bloom)
    for name in ("word_embeddings", "h.0.self_attention.query_key_value", "h.1.mlp.dense_4h_to_h"):
        assert arrays[f"{name}.weight"].std() == pytest.approx(0.1, rel=0.05), name
    assert not arrays["h.0.self_attention.query_key_value.bias"].any()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_takes_the_slopes_of_its_own_heads(rank):
    given = {}

    def mixed(query, key, value, past, **scoring):
        given.update(scoring)
        return query, None

    config = SimpleNamespace(n_head=6, attention_dropout=0.0, tensor_parallel_degree=2, tensor_parallel_rank=rank)
    layer = SimpleNamespace(
        config=config, num_heads=3, training=False, hidden_dropout=0.0, query_key_value=lambda x: x,
        _split_heads=lambda x: [x.reshape([1, 2, 3, 4])] * 3, dense=lambda x: x,
    )  # fmt: skip
    hidden = paddle.randn([1, 2, 12])
    output, _ = attend(layer, SimpleNamespace(attend=mixed), hidden, paddle.zeros([1, 2, 12]))
    np.testing.assert_array_equal(output.numpy(), hidden.numpy())
    every = alibi_slopes(6, "float32").numpy()
    assert len(set(every)) == 6
    np.testing.assert_array_equal(given["slopes"].numpy(), every[3 * rank : 3 * rank + 3])
