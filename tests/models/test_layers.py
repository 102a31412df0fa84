from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddle_sft.core.errors import ArgumentError
from paddle_sft.models import device
from paddle_sft.models.device import choose_device, choose_half_precision, parameter_dtype
from paddle_sft.models.hub import build_from_scratch
from paddle_sft.models.linears import features, find_linears
from tests import tiny

NAMES = {
    "llama": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "qwen2": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "mistral": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "gemma": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "gemma2": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    "bloom": "query_key_value dense dense_h_to_4h dense_4h_to_h",
    "gpt2": "c_attn c_proj c_fc c_proj",
}


@pytest.mark.parametrize("family", NAMES)
def test_all_linear_layers_of_every_block_are_found_and_the_head_is_not(model_folder, family):
    model = tiny.load(model_folder(family))
    found = find_linears(model)
    assert sorted(path.rsplit(".", 1)[-1] for path in found) == sorted(NAMES[family].split() * 2)  # two blocks
    for path, layer in found.items():
        assert features(layer) == tuple(model.state_dict()[f"{path}.weight"].shape)


def test_features_are_in_and_out():
    assert features(nn.Linear(3, 5)) == (3, 5)


def test_gemma_computes_the_tanh_form_of_gelu(model_folder):
    model = tiny.load(model_folder("gemma"))
    mlp = model.gemma.layers[0].mlp
    x = 3.0 * paddle.randn([2, 32])
    expected = mlp.down_proj(F.gelu(mlp.gate_proj(x), approximate=True) * mlp.up_proj(x))
    np.testing.assert_array_equal(mlp(x).numpy(), expected.numpy())


def test_upstream_still_computes_the_exact_form_of_gelu_so_the_mend_is_needed(model_folder):
    """Red when PaddleNLP mends GemmaMLP: then models/networks/gemma.py can go."""
    mlp = tiny.load(model_folder("gemma")).gemma.layers[0].mlp
    x = 3.0 * paddle.randn([2, 32])
    exact = mlp.down_proj(F.gelu(mlp.gate_proj(x)) * mlp.up_proj(x))
    np.testing.assert_allclose(type(mlp).forward(mlp, x).numpy(), exact.numpy(), atol=1e-6)
    assert abs(exact - mlp(x)).max() > 1e-5


def test_a_fresh_gemma_is_mended_too():
    model = build_from_scratch(tiny.config("gemma"), "float32", 0)
    assert type(model.gemma.layers[1].mlp.forward).__name__ == "_TanhGeluMLP"


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_no_matrix_of_a_fresh_model_is_constant(family):
    model = build_from_scratch(tiny.config(family), "float32", 0)
    arrays = {name: array for name, array in tiny.snapshot(model).items() if array.ndim > 1}
    assert len(arrays) > 8 and not [name for name, array in arrays.items() if array.std() < 0.01]


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs."""

    def make(num_gpus, with_cuda=True):
        monkeypatch.setattr(device.paddle, "is_compiled_with_cuda", lambda: with_cuda)
        monkeypatch.setattr(device.paddle.device.cuda, "device_count", lambda: num_gpus)

    return make


def test_a_gpu_is_taken_where_there_is_one(machine):
    machine(2)
    assert choose_device(None)[0] == "gpu"
    assert choose_device("gpu:1")[0] == "gpu:1"
    assert choose_device("cpu") == ("cpu", "asked for")


def test_without_a_gpu_the_cpu_is_taken_and_the_reason_is_said(machine):
    machine(0)
    assert choose_device("cpu") == ("cpu", "asked for")
    for asked in (None, "gpu"):
        assert choose_device(asked)[0] == "cpu" and "no GPU is visible" in choose_device(asked)[1]
    machine(0, with_cuda=False)
    assert "without CUDA" in choose_device(None)[1] and "doctor" in choose_device(None)[1]


def test_a_gpu_named_in_full_is_not_replaced_by_a_cpu(machine):
    machine(0)
    with pytest.raises(ArgumentError, match="device is gpu:3, but no GPU is visible.*set device to cpu"):
        choose_device("gpu:3")


def test_half_precision_needs_a_gpu():
    assert choose_half_precision("gpu", True, False)[0] == "bf16"
    assert choose_half_precision("gpu", False, True)[0] == "fp16"
    assert choose_half_precision("gpu", False, False)[0] == ""
    assert choose_half_precision("cpu", True, False)[0] == "" and "GPU" in choose_half_precision("cpu", True, False)[1]


@pytest.mark.parametrize(
    "given, dtype",
    [
        (("auto", "cpu", "", "O1"), "float32"),
        (("auto", "gpu", "", "O2"), "float32"),
        (("auto", "gpu", "bf16", "O1"), "float32"),
        (("auto", "gpu", "bf16", "O2"), "bfloat16"),
        (("auto", "gpu", "fp16", "O2"), "float16"),
        (("float32", "cpu", "", "O1"), "float32"),
        (("bfloat16", "gpu", "", "O1"), "bfloat16"),
    ],
)
def test_the_type_of_the_parameters(given, dtype):
    assert parameter_dtype(*given)[0] == dtype


def test_a_half_type_on_a_cpu_is_refused():
    with pytest.raises(ArgumentError, match="dtype is bfloat16.*use dtype auto or float32"):
        parameter_dtype("bfloat16", "cpu", "", "O1")


def rms_norm(x, weight, epsilon):
    """The definition, in the precision of its inputs."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma"])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_norm_of_a_cpu_is_the_definition_and_its_gradients_are_its_differences(model_folder, family, frozen):
    model = tiny.load(model_folder(family), trainable=not frozen)
    norm = getattr(model, family).norm
    random = np.random.default_rng(0)
    x, g = random.standard_normal((2, 3, 5, 32)).astype(np.float32)
    weight = norm.weight.numpy().astype(np.float64) + (1.0 if family == "gemma" else 0.0)
    given = paddle.to_tensor(x, stop_gradient=False)
    found = norm(given)
    np.testing.assert_allclose(
        found.numpy(), rms_norm(x.astype(np.float64), weight, norm.variance_epsilon), rtol=1e-5, atol=1e-6
    )
    (found * paddle.to_tensor(g)).sum().backward()

    def objective(x, weight):
        return (rms_norm(x, weight, norm.variance_epsilon) * g).sum()

    for gradient, at in ((given.grad, 0), (norm.weight.grad, 1)):
        if at == 1 and frozen:
            assert gradient is None
            continue
        direction = random.standard_normal(gradient.shape)
        step = [1e-6 * direction if at == 0 else 0.0, 1e-6 * direction if at == 1 else 0.0]
        x64 = x.astype(np.float64)
        slope = (objective(x64 + step[0], weight + step[1]) - objective(x64 - step[0], weight - step[1])) / 2e-6
        assert (gradient.numpy() * direction).sum() == pytest.approx(slope, rel=1e-4)
