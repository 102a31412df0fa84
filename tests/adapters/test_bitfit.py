from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.bitfit.config import BitFitConfig
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.hub import unique_parameters
from paddle_sft.train.weights import AdapterWeights
from tests import tiny


def test_ten_steps_are_those_of_training_the_biases_themselves(model_folder, tmp_path):
    """The slow way: the model's own biases, unfrozen, and nothing else."""
    samples = tiny.make_samples(12, seed=1)
    keys = dict(max_steps=10, per_device_train_batch_size=3, learning_rate=0.01, weight_decay=0.1)
    model = tiny.load(model_folder("qwen2"))
    config = attach(model, "bitfit", BitFitConfig(), None)
    tiny.make_trainer(
        model, tmp_path / "ours", samples, (), AdapterWeights(model, "bitfit", config, tmp_path), **keys
    ).train()
    plain = tiny.load(model_folder("qwen2"))
    biases = {name: one for name, one in unique_parameters(plain).items() if name.endswith(".bias")}
    for parameter in biases.values():
        parameter.stop_gradient = False
    tiny.make_trainer(plain, tmp_path / "slow", samples, (), **keys).train()
    found = unique_parameters(model)
    assert len(biases) == 3 * 2
    for name, bias in biases.items():
        path = name[: -len(".bias")]
        ours = found[f"{path}.base.bias"] + found[f"{path}.updates.default.bias_delta"]
        np.testing.assert_allclose(ours.numpy(), bias.numpy(), atol=2e-5, err_msg=name)
        assert np.abs(found[f"{path}.updates.default.bias_delta"].numpy()).max() > 0.01


def test_a_model_without_biases_is_refused_with_what_to_do(model_folder):
    with pytest.raises(ArgumentError, match="no linear layer of this model has one .*choose another adapter"):
        attach(tiny.load(model_folder()), "bitfit", BitFitConfig(), None)


def test_a_named_layer_without_a_bias_is_refused_and_all_linear_means_those_that_have_one(model_folder):
    model = tiny.load(model_folder("qwen2"))
    with pytest.raises(ArgumentError, match="o_proj has no bias to train .*these have one: q_proj, k_proj, v_proj"):
        attach(model, "bitfit", BitFitConfig(), ["q_proj", "o_proj"])
    config = attach(model, "bitfit", BitFitConfig(), "all-linear")
    assert {path.rsplit(".", 1)[-1] for path in config.target_modules} == {"q_proj", "k_proj", "v_proj"}
