"""What is trained beside updates of linear layers: an embedding's update, layers as they are, rows of new tokens."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach, disabled, expected_trainable, facts_of
from paddle_sft.adapters.base import adapted_linears, is_adapters
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.lora.config import LoRAConfig, StartedConfig
from paddle_sft.adapters.state import load_adapter, save_adapter
from paddle_sft.adapters.whole import train_whole
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.data.collate import collate
from paddle_sft.export.merge import MergeJob, merge
from paddle_sft.models.trained_rows import train_rows
from paddle_sft.models.vocabulary import grow, read_rows, set_rows, token_parameters
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.train.weights import AdapterWeights, trainable_parameters
from tests import tiny

CONFIG = LoRAConfig(lora_rank=4, lora_alpha=8.0)
IDS = np.array([[5, 94, 95, 7, 3, 96, 97, 96]])
EMBEDDING = "llama.embed_tokens"


def few_steps(model, config, folder, steps=3):
    samples = tiny.make_samples(6, vocabulary=model.config.vocab_size)
    weights = AdapterWeights(model, "lora", config, folder)
    trainer = tiny.make_trainer(model, folder / "run", samples, weights=weights, max_steps=steps, learning_rate=0.01)
    trainer.train()


def merged_logits(model_folder, adapter, output, ids):
    receipt = merge(MergeJob(model_folder, adapter, output))
    assert receipt["max_abs_logit_difference"] < 1e-5
    return tiny.logits(tiny.load(output), ids)


# ---- an embedding's update -----------------------------------------------------------------------------------------


@pytest.fixture
def embedded(model_folder):
    model = tiny.load(model_folder())
    return model, attach(model, "lora", CONFIG, ["q_proj", "embed_tokens"])


def test_an_update_of_the_embedding_adds_rows_of_a_times_b(embedded, model_folder, some_ids):
    model, config = embedded
    np.testing.assert_array_equal(tiny.logits(model, some_ids), tiny.logits(tiny.load(model_folder()), some_ids))
    tiny.train_deltas(model)
    layer = adapted_linears(model)[EMBEDDING]
    a, b = layer.update.lora_a.numpy(), layer.update.lora_b.numpy()
    expected = layer.base.weight.numpy()[some_ids] + 2.0 * a[some_ids] @ b
    np.testing.assert_allclose(layer(paddle.to_tensor(some_ids)).numpy(), expected, rtol=1e-5, atol=1e-6)
    shapes = {EMBEDDING: (96, 32), **{f"llama.layers.{n}.self_attn.q_proj": (32, 32) for n in (0, 1)}}
    trained = sum(parameter.size for parameter in trainable_parameters(model).values())
    assert trained == expected_trainable("lora", config, shapes, facts_of(model)) == 4 * (96 + 32 + 2 * 64)


def test_an_embeddings_update_is_trained_saved_and_merged(embedded, model_folder, tmp_path, some_ids):
    model, config = embedded
    few_steps(model, config, tmp_path)
    assert adapted_linears(model)[EMBEDDING].update.lora_a.numpy().any()
    save_adapter(tmp_path, model, "lora", config)
    again = tiny.load(model_folder())
    load_adapter(again, tmp_path)
    expected = tiny.logits(model, some_ids)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), expected)
    found = merged_logits(model_folder(), tmp_path, tmp_path / "merged", some_ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dropout_of_an_embeddings_update_leaves_out_whole_tokens(model_folder):
    model = tiny.load(model_folder())
    attach(model, "lora", LoRAConfig(lora_rank=4, lora_dropout=0.5), ["embed_tokens"])
    tiny.train_deltas(model)
    layer = adapted_linears(model)[EMBEDDING]
    layer.train()
    ids = paddle.arange(96).unsqueeze(0)
    changed = (layer(ids) - layer.base(ids)).numpy()[0]
    np.testing.assert_array_equal(changed.any(axis=1), changed.all(axis=1))
    assert 20 < changed.any(axis=1).sum() < 76


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_by_default_no_embedding_is_adapted(model_folder, targets):
    model = tiny.load(model_folder())
    assert EMBEDDING not in attach(model, "lora", CONFIG, targets).target_modules


def test_an_embedding_is_refused_where_it_can_not_be(model_folder):
    with pytest.raises(ArgumentError, match="adapter dora has no update for; lora has"):
        attach(tiny.load(model_folder()), "dora", StartedConfig(), ["embed_tokens"])
    with pytest.raises(ArgumentError, match="LM head is the same weight.*lora_modules_to_save"):
        attach(tiny.load(model_folder("qwen2")), "lora", CONFIG, ["embed_tokens"])


# ---- layers that are trained whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family, names, weights",
    [
        ("llama", ["lm_head", "norm"], {"lm_head.weight", "llama.norm.weight"}),
        ("qwen2", ["lm_head"], {"qwen2.embed_tokens.weight"}),
        ("qwen2", ["embed_tokens", "0.self_attn.q_proj"],
         {f"qwen2.{one}" for one in ("embed_tokens.weight", "layers.0.self_attn.q_proj.weight",
                                     "layers.0.self_attn.q_proj.bias")}),
        ("llama", [r".*layers\.1\..*layernorm"],
         {f"llama.layers.1.{one}_layernorm.weight" for one in ("input", "post_attention")}),
    ],
)  # fmt: skip
def test_named_layers_train_whole_are_saved_and_merged(model_folder, tmp_path, some_ids, family, names, weights):
    model = tiny.load(model_folder(family))
    assert set(train_whole(model, names)) == weights
    config = attach(model, "lora", CONFIG, None)
    assert {name for name in trainable_parameters(model) if not is_adapters(name)} == weights
    before = tiny.snapshot(model)
    few_steps(model, config, tmp_path)
    for name, array in tiny.snapshot(model).items():
        if not is_adapters(name) and name not in ("lm_head.weight", "lm_head.decoder_weight"):
            assert (array != before[name]).any() == (name in weights), name
    save_adapter(tmp_path, model, "lora", config)
    again = tiny.load(model_folder(family))
    load_adapter(again, tmp_path)
    expected = tiny.logits(model, some_ids)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), expected)
    assert set(trainable_parameters(again)) == set(trainable_parameters(model))
    found = merged_logits(model_folder(family), tmp_path, tmp_path / "merged", some_ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_layer_that_is_trained_whole_gets_no_update(model_folder):
    model = tiny.load(model_folder())
    train_whole(model, ["down_proj"])
    assert not any(path.endswith("down_proj") for path in attach(model, "lora", CONFIG, None).target_modules)


def test_names_that_match_no_layer_are_named_with_the_nearest(model_folder):
    with pytest.raises(ArgumentError, match="'lm_haed' matches no layer; did you mean 'lm_head'"):
        train_whole(tiny.load(model_folder()), ["lm_haed"])


def test_whole_weights_of_another_shape_are_refused(model_folder, tmp_path):
    model = tiny.load(model_folder())
    train_whole(model, ["lm_head"])
    config = attach(model, "lora", CONFIG, ["q_proj"])
    save_adapter(tmp_path, model, "lora", config)
    with pytest.raises(ModelError, match=r"lm_head.weight|another base"):
        load_adapter(tiny.load(model_folder(vocab_size=104)), tmp_path)


# ---- rows of new tokens --------------------------------------------------------------------------------------------


def grown(model_folder, family, first=96, end=98, **changes):
    model = tiny.load(model_folder(family, **changes))
    grow(model, first, end)
    train_rows(model)
    return model, attach(model, "lora", CONFIG, None)


def tagged(rows):
    return {name: (array, "F32") for name, array in rows.items()}


@pytest.mark.parametrize("family", ["llama", "qwen2", "bloom", "gemma2", "opt", "gpt2"])
def test_rows_get_the_gradient_that_the_whole_weights_would(model_folder, family):
    model, _ = grown(model_folder, family)
    whole = tiny.load(model_folder(family))
    grow(whole, 96, 98)
    for parameter in whole.parameters():
        parameter.stop_gradient = False
    learnt = {name: 0.3 * np.random.default_rng(1).standard_normal(rows.shape).astype("float32")
              for name, rows in read_rows(whole, whole.new_rows).items() if rows.ndim == 2}  # fmt: skip
    for one in (model, whole):  # as if trained: other values than the weights have that they stand for
        set_rows(one, one.new_rows, {**tagged(read_rows(one, one.new_rows)), **tagged(learnt)})
    batch = collate(tiny.make_samples(6, vocabulary=98), 3)
    losses = []
    for one in (model, whole):
        one.train()
        losses.append(STAGES["sft"].loss(one, batch))
        losses[-1].backward()
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
    expected = [
        (parameter.grad.numpy() if axis == 0 else parameter.grad.numpy().T)[96:98]
        for parameter, axis in token_parameters(whole).values()
        if len(parameter.shape) == 2
    ]
    rows = model.trained_rows
    found = [rows.embedding.grad.numpy()] + ([] if rows.is_tied else [rows.head.grad.numpy()])
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "family, changes", [("llama", {}), ("qwen2", {}), ("gemma2", {}), ("llama", {"vocab_size": 104})]
)
def test_trained_rows_count_everywhere_and_nothing_else_of_the_vocabulary_moves(
    model_folder, tmp_path, family, changes
):
    """The last case has spare rows behind the new ones."""
    model, config = grown(model_folder, family, **changes)
    before = {name: array for name, array in tiny.snapshot(model).items() if not is_adapters(name)}
    few_steps(model, config, tmp_path)
    for name, array in tiny.snapshot(model).items():
        if not is_adapters(name):
            np.testing.assert_array_equal(array, before[name], name)
    rows = model.trained_rows.embedding.numpy()
    assert (rows[0] != rows[1]).any()
    expected = tiny.logits(model, IDS)
    save_adapter(tmp_path, model, "lora", config)
    again = tiny.load(model_folder(family, **changes))
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(tiny.logits(again, IDS), expected)
    found = merged_logits(model_folder(family, **changes), tmp_path, tmp_path / "merged", IDS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    batch = collate(tiny.make_samples(6, vocabulary=98), 3)
    model.eval()
    with paddle.no_grad():
        loss, merged = (float(STAGES["sft"].loss(one, batch)) for one in (model, tiny.load(tmp_path / "merged")))
    assert loss == pytest.approx(merged, rel=1e-5)


def test_a_head_that_is_trained_whole_holds_its_new_rows_itself(model_folder):
    model = tiny.load(model_folder())
    grow(model, 96, 98)
    train_whole(model, ["lm_head"])
    train_rows(model)
    attach(model, "lora", CONFIG, ["q_proj"])
    assert model.trained_rows.head is None
    assert {"lm_head.weight", "trained_rows.embedding"} <= set(trainable_parameters(model))


def test_rows_that_were_trained_stay_when_the_model_grows_again(model_folder):
    model, _ = grown(model_folder, "llama")
    model.trained_rows.embedding.set_value(model.trained_rows.embedding + 1.0)
    kept = model.trained_rows.embedding.numpy()
    before = tiny.logits(model, [[96, 97]])
    grow(model, 98, 99)
    train_rows(model)
    assert model.trained_rows.embedding.shape == [3, 32]
    np.testing.assert_array_equal(model.trained_rows.embedding.numpy()[:2], kept)
    np.testing.assert_allclose(tiny.logits(model, [[96, 97]])[..., :98], before, atol=1e-5)


def test_every_method_with_an_embedding_has_the_same_arrays_there():
    """A folder is checked, and merged, by the class for linear layers."""
    for method in (one for one in ADAPTERS.values() if one.embedding):
        plain, other = (kind(96, 32, method.config(), "float32") for kind in (method.layer, method.embedding))
        assert {name: one.shape for name, one in plain.state_dict().items()} == {
            name: one.shape for name, one in other.state_dict().items()
        }


def test_disabling_is_refused_where_the_base_is_not_there_any_more(model_folder):
    model = tiny.load(model_folder())
    train_whole(model, ["norm"])
    attach(model, "lora", CONFIG, None)
    with pytest.raises(ModelError, match="llama.norm.weight was trained whole"):
        with disabled(model):
            pass
