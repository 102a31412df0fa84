from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.adapters.attach import attach, base_linears
from paddle_sft.adapters.bottleneck.config import BottleneckConfig
from paddle_sft.adapters.bottleneck.layer import BottleneckUpdate
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import build_from_scratch
from paddle_sft.models.linears import features
from tests import tiny

FUNCTIONS = {
    "gelu": lambda h: h * 0.5 * (1 + np.vectorize(math.erf)(h / np.sqrt(2))),
    "relu": lambda h: np.maximum(h, 0),
    "silu": lambda h: h / (1 + np.exp(-h)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_it_adds_two_layers_and_an_activation_behind_the_base(name):
    base = nn.Linear(6, 4)
    update = BottleneckUpdate(6, 4, BottleneckConfig(bottleneck_size=3, bottleneck_activation=name), "float32")
    random = np.random.default_rng(0)
    for parameter in update.parameters():
        parameter.set_value(random.standard_normal(parameter.shape).astype("float32"))
    x = paddle.randn([2, 6])
    h = x.numpy() @ base.weight.numpy() + base.bias.numpy()
    one = {key: value.numpy() for key, value in update.state_dict().items()}
    inner = FUNCTIONS[name](h @ one["down_weight"] + one["down_bias"])
    np.testing.assert_allclose(
        update(x, base).numpy(), h + inner @ one["up_weight"] + one["up_bias"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_it_stands_behind_attention_and_behind_the_feed_forward_network_in_every_family(family):
    model = build_from_scratch(tiny.config(family), "float32", 0)
    config = attach(model, "bottleneck", BottleneckConfig(), None)
    behind = [path for path in config.target_modules if "attn" in path or "attention" in path]
    assert len(behind) == 2  # one in each of two layers
    others = [path for path in config.target_modules if path not in behind]
    linears = base_linears(model)
    assert {path.split(".")[-1] for path in others} <= {"down_proj", "w2", "dense_4h_to_h", "linear2", "c_proj"}
    assert {features(linears[path])[1] for path in config.target_modules} == {model.config.hidden_size}


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ArgumentError, match="bottleneck_activation must be one of gelu, relu, silu, tanh, got 'elu'"):
        BottleneckConfig(bottleneck_activation="elu")
    with pytest.raises(ArgumentError, match="bottleneck_size must be at least 1, got 0"):
        BottleneckConfig(bottleneck_size=0)
