"""Quantisation-aware training, against the equation and through the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.arguments.quant import QAT_TYPES as NAMES
from paddle_sft.cli.wiring import Run
from paddle_sft.core.errors import ArgumentError, CheckpointError
from paddle_sft.core.tensorfile import TensorFile
from paddle_sft.export.slim.deploy import DeployJob, deploy
from paddle_sft.quant.aware import ACTIVATIONS, QAT_TYPES, Awareness
from paddle_sft.train.aware_weights import QUANTERS
from tests import tiny


def test_the_arguments_know_the_types():
    assert NAMES == tuple(QAT_TYPES)


@pytest.mark.parametrize("kind", NAMES)
def test_a_layer_computes_with_rounded_numbers_and_gradients_pass_the_rounding(kind):
    bits, with_inputs = QAT_TYPES[kind]
    paddle.seed(0)
    layer, x = nn.Linear(12, 5), paddle.randn([7, 12])
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    names = [name for name, _ in layer.named_parameters()]
    awareness = Awareness({"one": layer}, kind)
    assert [name for name, _ in layer.named_parameters()] == names
    x.stop_gradient = False
    output = layer(x)
    largest = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(0)
    rounded = np.round(weight / scale * largest) * scale / largest
    inputs = x.numpy()
    if with_inputs:
        step = awareness.input_scales()["one"] / 127
        inputs = np.clip(np.round(inputs / step), -127, 127) * step
    np.testing.assert_allclose(output.numpy(), inputs @ rounded + bias, rtol=1e-5, atol=1e-5)
    assert np.abs(output.numpy() - (x.numpy() @ weight + bias)).max() > 1e-4
    upstream = paddle.randn(output.shape)
    (output * upstream).sum().backward()
    np.testing.assert_allclose(layer.weight.grad.numpy(), inputs.T @ upstream.numpy(), rtol=1e-4, atol=1e-5)
    assert np.isfinite(x.grad.numpy()).all()
    assert bool(awareness.input_scales()) == with_inputs


def test_evaluation_uses_the_scales_of_training_and_changes_nothing():
    paddle.seed(0)
    layer = nn.Linear(12, 5)
    awareness = Awareness({"one": layer}, "a8w8")
    layer.eval()
    assert np.abs(layer(paddle.ones([2, 12])).numpy() - layer.bias.numpy()).max() > 0.01  # before any training too
    layer.train()
    layer(paddle.randn([7, 12]))
    layer.eval()
    before = awareness.arrays()
    layer(100 * paddle.randn([7, 12]))
    for name, array in awareness.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)


def test_what_several_ranks_saw_of_inputs_is_averaged_and_a_step_that_is_not_applied_forgotten():
    """A moving average is a sum over a weight; of two ranks, the mean of both."""
    paddle.seed(0)
    layers = {"one": nn.Linear(12, 5), "two": nn.Linear(12, 5)}
    awareness = Awareness(layers, "a8w8")
    inputs = {path: paddle.randn([7, 12]) for path in layers}
    for path, layer in layers.items():
        layer(inputs[path])
    other = paddle.to_tensor([5.0, 1.9, 0.9, 1.0])  # of a rank whose second layer had no batch
    awareness.settle(lambda values: (values + other) / 2)
    for number, (path, x) in enumerate(inputs.items()):
        total, weight = 0.9 + float(x.abs().max()), 1.9
        expected = (total + float(other[2 * number])) / (weight + float(other[2 * number + 1]))
        assert awareness.input_scales()[path] == pytest.approx(expected, rel=1e-6)
    before = awareness.arrays()
    layers["one"](np.inf * paddle.ones([2, 12]))
    assert not np.isfinite(awareness.input_scales()["one"])
    awareness.go_back()
    for name, array in awareness.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)


def test_paddleslims_quanter_of_weights_still_waits_for_all_ranks_in_every_pass():
    """If not, `_WeightQuanter` may go."""
    from paddleslim.quant.quanters.channel_wise_abs_max import FakeQuanterChannelWiseAbsMaxObserverLayer

    assert "all_reduce" in FakeQuanterChannelWiseAbsMaxObserverLayer.dynamic_forward.__code__.co_names


@pytest.fixture
def run(model_folder, tmp_path):
    """Train with qat through the command's own wiring; returns the Run."""
    data = tiny.make_data(tmp_path / "data")

    def start(output="run", **keys):
        given = dict(
            model_name_or_path=str(model_folder()), dataset_name_or_path=str(data), output_dir=str(tmp_path / output),
            do_train=True, device="cpu", max_steps=4, per_device_train_batch_size=4, learning_rate=2e-3, qat="a8w8",
            save_strategy="steps", save_steps=2, disable_tqdm=True, logging_steps=1, src_length=40, max_length=60,
        )  # fmt: skip
        file = tmp_path / f"{output}.json"
        file.write_text(json.dumps({**given, **keys}))
        one = Run(load_finetune_arguments([str(file)]))
        one.train()
        return one

    return start


def test_a_run_leaves_a_float_model_and_the_scales_that_deployment_takes(run, tmp_path):
    one = run(max_steps=30, save_steps=30)
    out = tmp_path / "run"
    scales = json.loads((out / ACTIVATIONS).read_text())["scales"]
    assert len(scales) == 14 and scales == one.weights.awareness.input_scales()
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert history[-1]["loss"] < history[0]["loss"]
    samples = list(one.train_set.samples)[:4]
    report = deploy(DeployJob(out, tmp_path / "small", "qat"), samples, samples)
    assert json.loads((tmp_path / "small" / ACTIVATIONS).read_text())["scales"] == scales
    assert abs(report["after_with_8_bit_inputs"]["loss"] - report["before"]["loss"]) < 0.1


def test_a_resumed_run_is_the_uninterrupted_one(run, tmp_path):
    run("whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "part" / "checkpoint-2")
    run("part")
    for name in ("model.safetensors", QUANTERS):
        one, other = TensorFile(tmp_path / "whole" / name), TensorFile(tmp_path / "part" / name)
        assert one.specs.keys() == other.specs.keys()
        for key in one.specs:
            np.testing.assert_array_equal(one.read(key), other.read(key), key)


def test_a_checkpoint_of_a_run_without_qat_is_refused(run):
    run("part", qat=None, max_steps=2)
    with pytest.raises(CheckpointError, match="qat"):
        run("part", max_steps=2, num_train_epochs=1)


def test_quanters_of_other_layers_are_refused():
    with pytest.raises(CheckpointError, match="not made by a run with qat a8w8 on the same layers"):
        Awareness({"one": nn.Linear(3, 2)}, "a8w8").restore({})


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(lora=True), "qat is a8w8, which trains all weights as floats.*adapter is"),
        (dict(tensor_parallel_degree=2), "qat is a8w8.*tensor_parallel_degree is 2"),
        (dict(qat="w8a8"), "qat must be one of a8w8, a8w4"),
    ],
)
def test_what_it_does_not_combine_with_is_named(run, keys, words):
    with pytest.raises(ArgumentError, match=words):
        run(**keys)
