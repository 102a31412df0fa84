from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import adapted_linears
from paddle_sft.adapters.ia3.config import IA3Config
from paddle_sft.adapters.ia3.layer import IA3Update
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import build_from_scratch
from tests import tiny


@pytest.mark.parametrize("scales_input", [False, True])
def test_outputs_are_scaled_bias_and_all_or_inputs_are(scales_input):
    base = nn.Linear(6, 4)
    base.bias.set_value(paddle.randn([4]))
    update = IA3Update(6, 4, IA3Config(scales_input=scales_input), "float32")
    scale = np.random.default_rng(0).standard_normal(update.ia3_l.shape).astype("float32")
    update.ia3_l.set_value(scale)
    x, weight, bias = paddle.randn([3, 6]), base.weight.numpy(), base.bias.numpy()
    slow = (x.numpy() * scale) @ weight + bias if scales_input else (x.numpy() @ weight + bias) * scale
    np.testing.assert_allclose(update(x, base).numpy(), slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_keys_values_and_the_way_out_of_the_feed_forward_network_are_found_in_every_family(family):
    model = build_from_scratch(tiny.config(family), "float32", 0)
    attach(model, "ia3", IA3Config(), None)
    of_inputs = {path for path, layer in adapted_linears(model).items() if layer.update.scales_input}
    of_outputs = set(adapted_linears(model)) - of_inputs
    attention = ("attn", "self_attention")
    assert of_inputs and all(not any(word in path for word in attention) for path in of_inputs)
    assert of_outputs and all(any(word in path for word in attention) for path in of_outputs)
    assert not any(
        path.endswith(("q_proj", "o_proj", "up_proj", "gate_proj", "c_fc")) for path in of_outputs | of_inputs
    )


def test_a_model_whose_layers_have_other_names_is_refused_with_the_names():
    with pytest.raises(ArgumentError, match="adapter ia3 doesn't know which layers .*Linear layers here: one, other"):
        IA3Config().on({"a.one": nn.Linear(2, 2), "a.other": nn.Linear(2, 2)}, None)
