"""The last layer computes the trained positions alone: the same loss and gradients, and only where nobody looks at the
others."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.core.records import Sample
from paddle_sft.data.collate import collate_rows
from paddle_sft.models import last_layer
from paddle_sft.operators.build import load_operators, replaced_operators
from paddle_sft.operators.timing import TimedOperators
from paddle_sft.quant.aware import Awareness
from paddle_sft.stages.catalogue import STAGES
from tests import tiny

NARROWED = ["llama", "qwen2", "mistral", "qwen3", "phi3", "gemma"]
LORA = dict(lora_rank=3, lora_alpha=5.0)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the operators with")


def several_turns(seed=0):
    """Rows in which trained and other tokens take turns, one sample trains nothing, and the last row is short."""
    random = np.random.default_rng(seed)
    rows = []
    for lengths in ([9, 70, 5], [30], [1, 4, 11]):
        row = [Sample(random.integers(4, 90, n).astype(np.int32), random.random(n) < 0.4, "") for n in lengths]
        row[-1].trained[:] = False
        rows.append([*row, Sample(random.integers(4, 90, 6).astype(np.int32), np.arange(6) >= 3, "")])
    return collate_rows(rows, 3)


BATCHES = {
    "several turns": several_turns,
    "one sample a row": lambda: collate_rows([[sample] for sample in tiny.make_samples(4, seed=1, longest=20)], 3),
    "one token": lambda: collate_rows([[Sample(np.arange(4, 12, dtype=np.int32), np.arange(8) == 5, "")]], 3),
}


@pytest.fixture(params=["compiled", "composed"])
def operators(request):
    """With the compiled operators, and without."""
    if request.param == "compiled" and shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile the operators with")
    with nullcontext() if request.param == "compiled" else replaced_operators(None):
        yield


def loss_and_gradients(model, batch):
    """Of every trained parameter; whether the last layer left tokens out."""
    loss = STAGES["sft"].loss(model, batch)
    narrowed = model.row_layout.wanted is not None
    loss.backward()
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return float(loss), found, narrowed


def require_same(monkeypatch, model, batch, is_narrowed=True):
    """As the whole last layer gives it, to 1e-6."""
    loss, gradients, narrowed = loss_and_gradients(model, batch)
    assert narrowed == is_narrowed
    monkeypatch.setattr(last_layer, "MOST", -1.0)
    expected, whole, narrowed = loss_and_gradients(model, batch)
    assert not narrowed
    assert loss == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == whole.keys() and gradients
    for name, gradient in whole.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=0, atol=1e-6 * max(1.0, np.abs(gradient).max()))


CASES = [(family, "several turns") for family in NARROWED] + [("llama", batch) for batch in list(BATCHES)[1:]]


@pytest.mark.parametrize("family, batch", CASES)
def test_every_weight_trained(monkeypatch, model_folder, operators, family, batch):
    model = tiny.load(model_folder(family), trainable=True)
    model.train()
    require_same(monkeypatch, model, BATCHES[batch]())


@pytest.mark.parametrize("family", sorted(set(tiny.CONFIGS) - set(NARROWED)))
def test_other_families_compute_their_last_layer_whole(monkeypatch, model_folder, family):
    require_same(monkeypatch, tiny.load(model_folder(family), trainable=True), several_turns(), is_narrowed=False)


@pytest.mark.parametrize("granularity", ["full", "full_attn", "core_attn"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_recomputed(monkeypatch, model_folder, family, granularity):
    model = tiny.load(model_folder(family), trainable=True)
    model.train()
    if granularity == "full":
        model.recompute_enable()
    else:
        model.row_layout.recomputes = granularity
    require_same(monkeypatch, model, several_turns())


ADAPTED = {
    **{method: True for method in ("lora", "dora", "ia3", "oft", "lokr", "vera", "bottleneck", "bitfit")},
    **{method: False for method in ("prompt_tuning", "p_tuning", "prefix_tuning", "reft")},
}


@pytest.mark.parametrize("method", ADAPTED)
def test_adapters(monkeypatch, model_folder, method):
    """What reads or edits tokens of whole rows has them."""
    model = tiny.load(model_folder("qwen2"))
    paddle.seed(3)
    config = ADAPTERS[method].config
    keys = {name: value for name, value in LORA.items() if name in config.__dataclass_fields__}
    attach(model, method, config(**keys), None)
    tiny.train_deltas(model)
    model.train()
    require_same(monkeypatch, model, several_turns(), ADAPTED[method])


def test_reft_before_the_last_layer(monkeypatch, model_folder):
    model = tiny.load(model_folder("llama"))
    attach(model, "reft", ADAPTERS["reft"].config(layers="0"), None)
    tiny.train_deltas(model)
    require_same(monkeypatch, model, several_turns())


def watch(layer):
    layer.register_forward_post_hook(lambda one, inputs, output: None)


WATCHERS = {
    "the base model": lambda model: watch(model.llama),
    "the last layer": lambda model: watch(model.llama.layers[1]),
    "a linear layer in it": lambda model: watch(model.llama.layers[1].mlp.up_proj),
    "what comes before one": lambda model: model.llama.layers[1].self_attn.o_proj.register_forward_pre_hook(
        lambda one, inputs: None
    ),
    "the last norm": lambda model: watch(model.llama.norm),
    "scales of whole batches": lambda model: Awareness({"down": model.llama.layers[1].mlp.down_proj}, "a8w8"),
}


@pytest.mark.parametrize("name", WATCHERS)
def test_nothing_is_left_out_while_somebody_looks(model_folder, name):
    model, batch = tiny.load(model_folder("llama"), trainable=True), several_turns()
    assert loss_and_gradients(model, batch)[2]
    WATCHERS[name](model)
    assert not loss_and_gradients(model, batch)[2]


def test_a_hook_elsewhere_changes_nothing(model_folder):
    model = tiny.load(model_folder("llama"), trainable=True)
    watch(model.llama.layers[0])
    watch(model.get_input_embeddings())
    assert loss_and_gradients(model, several_turns())[2]


def test_evaluation_adds_up_the_same(monkeypatch, model_folder):
    model, stage, batch = tiny.load(model_folder("qwen2")), STAGES["sft"], several_turns()
    found = []
    for most in (0.9, -1.0):
        monkeypatch.setattr(last_layer, "MOST", most)
        meter = stage.meter(model)
        with paddle.no_grad():
            outputs = stage.outputs(model, batch)
            meter.add(outputs, batch)
        found.append((list(outputs.shape[:2]), meter.totals))
    (few, narrow), (all_tokens, whole) = found
    assert few == [1, (batch.labels >= 0).sum()] and all_tokens == list(batch.labels.shape)
    np.testing.assert_allclose(narrow, whole, rtol=1e-6)


def test_rows_set_anew_are_computed_whole(model_folder):
    model, batch = tiny.load(model_folder("llama")), several_turns()
    STAGES["sft"].loss(model, batch)
    logits = STAGES["sft"].logits(model, paddle.to_tensor(batch.input_ids), batch.segment_lengths)
    assert list(logits.shape[:2]) == list(batch.input_ids.shape)


def test_texts_of_which_nearly_all_is_trained_are_computed_whole(model_folder):
    """Pretraining: only the last token of a text predicts nothing."""
    sample = Sample(np.arange(4, 44, dtype=np.int32), np.ones(40, bool), "")
    assert not loss_and_gradients(tiny.load(model_folder("llama"), trainable=True), collate_rows([[sample]], 3))[2]


@needs_compiler
def test_the_last_layer_multiplies_trained_rows_alone(model_folder):
    model, batch = tiny.load(model_folder("llama"), trainable=True), several_turns()
    rows = []

    class Counted(TimedOperators):
        def __getattr__(self, name):
            function = super().__getattr__(name)
            if name != "linears":
                return function
            return lambda x, num, *rest: (rows.append(num), function(x, num, *rest))

    with replaced_operators(Counted(load_operators())):
        STAGES["sft"].loss(model, batch)
    every, trained = batch.input_ids.size, int((batch.labels >= 0).sum())
    assert rows == [every, every, every, trained]  # q, k and v; gate and up; of two layers
