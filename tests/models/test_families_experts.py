"""Mixtures of experts against a slow loop over tokens, and what is particular to the families that have them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
import safetensors.numpy
from paddle import nn

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.linears import find_linears
from paddle_sft.models.networks.experts import choose_experts, mix_experts
from paddle_sft.models.networks.qwen2_moe import is_sparse
from paddle_sft.models.weights import WEIGHTS_NAME
from tests import tiny

FAMILIES = ("mixtral", "qwen2_moe")
IDS = np.random.default_rng(0).integers(4, 96, (2, 9))


class Expert(nn.Layer):
    """silu(x A) B"""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(size, width, bias_attr=False)
        self.down = nn.Linear(width, size, bias_attr=False)

    def forward(self, x):
        return self.down(nn.functional.silu(self.up(x)))


def slow_mix(tokens, logits, experts, top_k, normalised):
    """The definition, token by token in double precision."""
    found = []
    for token, scores in zip(tokens.astype(np.float64), logits.astype(np.float64)):
        likely = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        chosen = np.argsort(-likely)[:top_k]
        weights = likely[chosen] / (likely[chosen].sum() if normalised else 1.0)
        total = np.zeros_like(token)
        for weight, number in zip(weights, chosen):
            inner = token @ experts[number].up.weight.numpy().astype(np.float64)
            total += weight * ((inner / (1 + np.exp(-inner))) @ experts[number].down.weight.numpy())
        found.append(total)
    return np.stack(found)


def mixture(num_tokens, num_experts, top_k, seed=0):
    """(tokens, the router's logits, experts), all of which take a gradient."""
    paddle.seed(seed)
    tokens, logits = paddle.randn([num_tokens, 6]), 3 * paddle.randn([num_tokens, num_experts])
    tokens.stop_gradient = logits.stop_gradient = False
    return tokens, logits, [Expert(6, 5) for _ in range(num_experts)]


def mixed(tokens, logits, experts, top_k, normalised=False):
    return mix_experts(tokens, experts, *choose_experts(logits, top_k, normalised))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("num_tokens, num_experts, top_k", [(11, 3, 1), (11, 5, 3), (1, 4, 2), (7, 3, 3), (2, 9, 2)])
def test_a_mixture_is_its_definition_token_by_token(num_tokens, num_experts, top_k, normalised):
    tokens, logits, experts = mixture(num_tokens, num_experts, top_k)
    expected = slow_mix(tokens.numpy(), logits.numpy(), experts, top_k, normalised)
    found = mixed(tokens, logits, experts, top_k, normalised).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_gradient_is_that_of_all_experts_for_all_tokens():
    """Computed densely: every expert for every token, times a weight that is 0 where it was not chosen."""
    tokens, logits, experts = mixture(13, 4, 2)
    leaves = [tokens, logits] + [parameter for expert in experts for parameter in expert.parameters()]
    weights, chosen = choose_experts(logits, 2, True)
    every = (nn.functional.one_hot(chosen, 4) * weights.unsqueeze(-1)).sum(1)
    dense = sum(every[:, number : number + 1] * expert(tokens) for number, expert in enumerate(experts))
    expected = paddle.grad((dense * dense).sum(), leaves)
    output = mixed(tokens, logits, experts, 2, True)
    for leaf, found, wanted in zip(leaves, paddle.grad((output * output).sum(), leaves), expected):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-5 * np.abs(wanted.numpy()).max())


def test_an_expert_without_tokens_gets_a_gradient_of_zeros():
    tokens, _, experts = mixture(5, 3, 1)
    logits = paddle.to_tensor([[9.0, 0.0, 1.0]] * 5, stop_gradient=False)  # all to expert 0
    mixed(tokens, logits, experts, 1).sum().backward()
    assert np.abs(experts[0].up.weight.grad.numpy()).max() > 0
    for expert in experts[1:]:
        assert not expert.up.weight.grad.numpy().any() and not expert.down.weight.grad.numpy().any()
    experts[1].up.weight.stop_gradient = experts[1].down.weight.stop_gradient = True  # frozen: no work for nothing
    experts[1].forward = None
    mixed(tokens, logits, experts, 1).sum().backward()


def test_tokens_that_fill_a_row_take_no_place_from_others():
    """A capacity would drop tokens of an expert that the filling crowds."""
    tokens, logits, experts = mixture(6, 3, 2)
    alone = mixed(tokens, logits, experts, 2).numpy()
    crowd = [paddle.concat([one[:1].tile([200, 1]), one]) for one in (tokens, logits)]  # the row above is full of it
    np.testing.assert_allclose(mixed(*crowd, experts, 2).numpy()[200:], alone, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_adapted_and_routers_never(model_folder, family):
    model = tiny.load(model_folder(family))
    paths = attach(model, "lora", LoRAConfig(lora_rank=2), "all-linear").target_modules
    experts = [path for path in paths if ".experts." in path]
    num_sparse, num_experts = (2, 3) if family == "mixtral" else (1, 4)
    assert len(experts) == 3 * num_sparse * num_experts
    assert len([path for path in paths if "self_attn" in path]) == 8
    assert not [path for path in paths if path.endswith((".gate", "shared_expert_gate"))]
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    tiny.train_deltas(model)
    model(input_ids=paddle.to_tensor(IDS))[0].sum().backward()
    trained = {name: p for name, p in unique_parameters(model).items() if not p.stop_gradient}
    assert not [name for name, parameter in trained.items() if parameter.grad is None]
    assert [name for name, p in trained.items() if ".experts." in name and np.abs(p.grad.numpy()).max() > 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_router_that_is_named_as_a_target_is_no_layer(model_folder, family):
    with pytest.raises(ArgumentError, match="'gate' match no layer"):
        attach(tiny.load(model_folder(family)), "lora", LoRAConfig(lora_rank=2), ["gate"])


def fused(arrays, family):
    """The same weights as transformers 5 holds them: the experts of a layer in two tensors, written out here."""
    gate, up, down, block = ("w1", "w3", "w2", "block_sparse_moe") if family == "mixtral" else (
        "gate_proj", "up_proj", "down_proj", "mlp")  # fmt: skip
    found = {name.replace(f".{block}.", ".mlp."): array for name, array in arrays.items() if ".experts." not in name}
    for layer in range(2):
        prefix = f"model.layers.{layer}.{block}.experts"
        num = sum(name.startswith(prefix) for name in arrays) // 3
        of = {kind: [arrays[f"{prefix}.{number}.{kind}.weight"] for number in range(num)] for kind in (gate, up, down)}
        if num:
            pairs = zip(of[gate], of[up])
            found[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = np.stack([np.concatenate(pair) for pair in pairs])
            found[f"model.layers.{layer}.mlp.experts.down_proj"] = np.stack(of[down])
    return found


@pytest.fixture
def fused_folder(model_folder, tmp_path):
    def make(family, change=lambda arrays: None):
        theirs = model_folder(family, "hf")
        shutil.copytree(theirs, tmp_path / "fused")
        arrays = fused(safetensors.numpy.load_file(theirs / WEIGHTS_NAME), family)
        change(arrays)
        safetensors.numpy.save_file(arrays, tmp_path / "fused" / WEIGHTS_NAME, {"format": "pt"})
        return theirs, tmp_path / "fused"

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_in_one_tensor_are_read_like_one_by_one(fused_folder, family):
    apart, together = (unique_parameters(load_model(folder, "float32").model) for folder in fused_folder(family))
    for name, parameter in apart.items():
        np.testing.assert_array_equal(together[name].numpy(), parameter.numpy(), err_msg=name)


@pytest.mark.parametrize("num_experts", [2, 4])
def test_a_fused_tensor_of_another_number_of_experts_is_refused(fused_folder, num_experts):
    def change(arrays):
        name = "model.layers.0.mlp.experts.gate_up_proj"
        arrays[name] = np.resize(arrays[name], (num_experts, *arrays[name].shape[1:]))

    with pytest.raises(ModelError, match=rf"gate_up_proj is .{num_experts}, 96, 32., the config needs .3, 96, 32."):
        load_model(fused_folder("mixtral", change)[1], "float32")


def test_dense_layers_are_where_the_config_has_them():
    def sparse(**changes):
        keys = dict(num_experts=4, decoder_sparse_step=1, mlp_only_layers=None)
        config = type("Config", (), {**keys, **changes})
        return [number for number in range(6) if is_sparse(config, number)]

    assert sparse() == [0, 1, 2, 3, 4, 5]
    assert sparse(mlp_only_layers=[0, 3]) == [1, 2, 4, 5]
    assert sparse(decoder_sparse_step=2) == [1, 3, 5]
    assert sparse(decoder_sparse_step=3, mlp_only_layers=[5]) == [2]
    assert sparse(num_experts=0) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_parallelism_knows_every_linear_layer_and_no_router(model_folder, family):
    model = tiny.load(model_folder(family))
    model.config.tensor_parallel_degree = 2
    actions = type(model)._get_tensor_parallel_mappings(model.config)
    linears = {path.partition(".")[2] + ".weight" for path in find_linears(model)}
    assert linears <= actions.keys()
    assert not [name for name in actions if name.endswith(("gate.weight",))]


def test_a_folder_of_paddlenlp_without_our_keys_means_what_paddlenlp_computes(tmp_path):
    tiny.make_model(tmp_path / "model", "qwen2_moe", mlp_only_layers=[])
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    for key in ("qkv_bias", "mlp_only_layers", "max_window_layers", "decoder_sparse_step"):
        del config[key]
    config["paddlenlp_version"] = "3.0.0b4"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load_model(tmp_path / "model", "float32").model
    assert model.config.qkv_bias is True and is_sparse(model.config, 0)
