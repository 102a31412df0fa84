from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import wrap
from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.export.streamed import streamed_logits
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_empty, unique_parameters
from paddle_sft.models.linears import find_linears
from tests import tiny

BASES = [(family, {}) for family in FAMILIES] + [("llama", {"tie_word_embeddings": True})]


def empty_model(folder):
    model = build_empty(read_config(folder), "float32")
    model.eval()
    return model


def weights_of(folder):
    return {name: parameter.numpy() for name, parameter in unique_parameters(tiny.load(folder)).items()}


@pytest.mark.parametrize("family, changes", BASES)
def test_a_streamed_model_computes_what_a_loaded_one_does_exactly(model_folder, some_ids, family, changes):
    folder = model_folder(family, **changes)
    weights = weights_of(folder)
    found = streamed_logits(empty_model(folder), lambda name: (weights[name], "F32"), some_ids)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tiny.logits(tiny.load(folder), some_ids))


@pytest.mark.parametrize("family, changes", BASES)
def test_never_more_than_one_layers_weights_are_held_and_none_afterwards(model_folder, some_ids, family, changes):
    folder = model_folder(family, **changes)
    weights, model = weights_of(folder), empty_model(folder)
    parameters = unique_parameters(model)
    largest = max(
        sum(p.size for p in layer.parameters(include_sublayers=False)) for layer in model.sublayers(include_self=True)
    )
    most, asked = [], []

    def read(name):
        asked.append(name)
        most.append(sum(p.size for p in parameters.values() if p._is_initialized()))
        return weights[name], "F32"

    streamed_logits(model, read, some_ids)
    assert set(asked) == set(weights)
    assert max(most) <= largest < sum(array.size for array in weights.values()) / 3
    assert not any(parameter._is_initialized() for parameter in parameters.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_it_can_be_run_again(model_folder, some_ids, family):
    folder = model_folder(family)
    weights, model = weights_of(folder), empty_model(folder)
    one, other = (streamed_logits(model, lambda name: (weights[name], "F32"), some_ids) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    changed = streamed_logits(model, lambda name: (2 * weights[name], "F32"), some_ids)
    assert (changed != one).any()  # nothing of the last run was kept


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "bloom", "gpt2"])
def test_weights_that_are_there_already_are_used_as_they_are(model_folder, some_ids, family):
    folder = model_folder(family)
    weights = weights_of(folder)
    whole, streamed = tiny.load(folder), empty_model(folder)
    for model in (whole, streamed):
        linears = find_linears(model)
        paddle.seed(5)
        wrap(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), linears)
        tiny.train_deltas(model)
        model.eval()
    asked = []

    def read(name):
        asked.append(name)
        return weights[name.replace(".base.", ".")], "F32"

    # layers that read from the disk are computed one by one, the whole model's together: they round otherwise
    found, expected = streamed_logits(streamed, read, some_ids), tiny.logits(whole, some_ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert not [name for name in asked if is_adapters(name)]


def test_an_error_while_reading_leaves_no_hook_behind(model_folder, some_ids):
    folder = model_folder()
    model, weights = empty_model(folder), weights_of(folder)

    def fail(name):
        raise OSError("gone")

    with pytest.raises(OSError):
        streamed_logits(model, fail, some_ids)
    found = streamed_logits(model, lambda name: (weights[name], "F32"), some_ids)
    np.testing.assert_array_equal(found, tiny.logits(tiny.load(folder), some_ids))
