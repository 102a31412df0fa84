"""OPT and GPT-2: positions with a vector each, dropouts, folders of other writers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import paddlenlp.transformers as transformers
import pytest
import safetensors.numpy

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import write_arrays
from paddle_sft.models.catalogue import FAMILIES, require_positions
from paddle_sft.models.config import read_config
from paddle_sft.models.family import ACTIVATION_NAMES
from paddle_sft.models.hub import build_from_scratch, load_model, unique_parameters
from paddle_sft.models.linears import find_linears
from paddle_sft.models.networks.activations import ACTIVATIONS
from paddle_sft.models.networks.gpt2 import GPT2Config, GPT2PretrainedModel
from paddle_sft.models.weights import WEIGHTS_NAME
from tests import tiny

LAST = {"opt": "max_position_embeddings", "gpt2": "n_positions"}


def build(family, **changes):
    model = build_from_scratch(tiny.config(family, **changes), "float32", 2)
    for parameter in unique_parameters(model).values():
        parameter.stop_gradient = False
    return model


@pytest.mark.parametrize("family", LAST)
def test_a_text_may_be_as_long_as_the_table_of_positions_and_no_longer(family):
    model = build(family, **{LAST[family]: 8})
    ids = paddle.to_tensor([[5] * 8])
    assert np.isfinite(tiny.logits(model, ids)).all()
    model.row_layout.set([[8, 4]])
    model(input_ids=paddle.to_tensor([[5] * 12]))  # a row of several texts may
    for segments in ([[12]], None):
        model.row_layout.clear() if segments is None else model.row_layout.set(segments)
        with pytest.raises(ModelError, match="12 tokens is longer than the 8 positions .*max_new_tokens"):
            model(input_ids=paddle.to_tensor([[5] * 12]))
    past = model(input_ids=ids, use_cache=True)[1]
    with pytest.raises(ModelError, match="9 tokens is longer than the 8 positions"):
        model(input_ids=paddle.to_tensor([[5]]), use_cache=True, past_key_values=past)


@pytest.mark.parametrize("family", LAST)
def test_samples_beyond_the_last_position_are_refused_before_the_model_is_loaded(family):
    config = tiny.config(family, **{LAST[family]: 1024})
    require_positions(config, 1024)
    with pytest.raises(ArgumentError, match=f"1,025 tokens.* 1,024 positions .{LAST[family]} .*max_length to 1024"):
        require_positions(config, 1025)
    require_positions(tiny.config("llama"), 10**6)  # rotary positions have no end


@pytest.mark.parametrize("family", LAST)
def test_position_zero_of_opt_is_the_third_row_of_its_table(family):
    model = build(family)
    table = next(p for name, p in unique_parameters(model).items() if "position" in name or "wpe" in name)
    before = tiny.logits(model, [[7, 8]])
    for row in range(4):
        saved = table.numpy()
        changed = saved.copy()
        changed[row, 0] += 1.0
        table.set_value(changed)
        read = bool(np.abs(tiny.logits(model, [[7, 8]]) - before).max() > 1e-4)
        assert read == (row in ((2, 3) if family == "opt" else (0, 1))), row
        table.set_value(saved)


DROPOUTS = {
    "gpt2": dict(embd_pdrop=0.2, resid_pdrop=0.3, attn_pdrop=0.1),
    "opt": dict(dropout=0.3, attention_dropout=0.1),
    "bloom": dict(hidden_dropout=0.3, attention_dropout=0.1),
}


def drawn_gradients(model, seed):
    paddle.seed(seed)
    model.row_layout.set([[5, 7], [9, 3]])
    output = model(input_ids=paddle.to_tensor(np.random.default_rng(1).integers(4, 96, (2, 12))))
    output = output[0] if isinstance(output, (tuple, list)) else output
    (output * output).sum().backward()
    found = {name: p.grad.numpy().copy() for name, p in unique_parameters(model).items()}
    model.clear_gradients()
    return found


@pytest.mark.parametrize("family", DROPOUTS)
def test_what_is_recomputed_drops_the_same_numbers(family):
    model = build(family, **DROPOUTS[family])
    model.train()
    plain, other = drawn_gradients(model, 1), drawn_gradients(model, 2)
    assert any((plain[name] != other[name]).any() for name in plain), "nothing was dropped"
    model.recompute_enable()
    calls = []
    for path, layer in find_linears(model).items():
        layer.register_forward_post_hook(lambda *_, path=path: calls.append(path))
    for name, gradient in drawn_gradients(model, 1).items():
        np.testing.assert_array_equal(gradient, plain[name], name)
    counts = {path: calls.count(path) for path in calls if "project_" not in path}
    assert set(counts.values()) == {2}, "once forward, and once more for the gradient"


@pytest.mark.parametrize("family", DROPOUTS)
def test_nothing_is_dropped_outside_training(family, some_ids):
    model = build(family, **DROPOUTS[family])
    np.testing.assert_array_equal(tiny.logits(model, some_ids), tiny.logits(model, some_ids))


@pytest.mark.parametrize("family", ["gemma2", "opt", "gpt2"])
def test_generation_goes_on_from_its_cache_as_if_it_read_everything_again(model_folder, family):
    model = tiny.load(model_folder(family))
    ids = np.random.default_rng(3).integers(4, 96, (2, 5))
    expected = ids
    for _ in range(6):
        expected = np.concatenate([expected, tiny.logits(model, expected)[:, -1].argmax(-1)[:, None]], axis=1)
    model.row_layout.clear()
    found, _ = model.generate(
        paddle.to_tensor(ids), attention_mask=paddle.ones(ids.shape, "int64"), decode_strategy="greedy_search",
        max_new_tokens=6, eos_token_id=10**6, pad_token_id=3, use_cache=True,
    )  # fmt: skip
    np.testing.assert_array_equal(found.numpy(), expected[:, 5:])


def rewritten(source, target, change):
    """A copy of a Hugging Face folder whose tensors went through `change`: name -> array."""
    shutil.copytree(source, target)
    arrays = change(safetensors.numpy.load_file(target / WEIGHTS_NAME))
    write_arrays(target / WEIGHTS_NAME, arrays, {"format": "pt"})
    return target


def test_an_old_gpt2_folder_has_no_prefix_and_keeps_its_masks(model_folder, tmp_path, some_ids):
    source = model_folder("gpt2", "hf")

    def older(arrays):
        found = {name.replace("transformer.", "", 1): array for name, array in arrays.items()}
        for layer in range(2):
            found[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 256, 256), np.float32))
            found[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
        return found

    loaded = load_model(rewritten(source, tmp_path / "old", older), "float32")
    np.testing.assert_array_equal(tiny.logits(loaded.model, some_ids), tiny.logits(tiny.load(source), some_ids))
    with pytest.raises(ModelError, match="no weights of the model: model.layers.0.attn.bias"):
        name = "model.layers.0.attn.bias"  # in no other family
        folder = rewritten(
            model_folder("llama", "hf"), tmp_path / "llama", lambda a: {**a, name: np.ones(3, "float32")}
        )
        load_model(folder, "float32")


def test_gpt2s_linear_layers_are_the_same_way_round_in_both_layouts(model_folder):
    ours, theirs = (safetensors.numpy.load_file(model_folder("gpt2", at) / WEIGHTS_NAME) for at in ("paddle", "hf"))
    assert ours["gpt2.h.0.attn.c_attn.weight"].shape == (32, 96)
    assert theirs.keys() == {name.replace("gpt2.", "transformer.", 1) for name in ours}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name.replace("gpt2.", "transformer.", 1)], name)


def paddlenlps_opt(folder, tied):
    """A folder that PaddleNLP wrote of its own OPT."""
    paddle.seed(5)
    keys = tiny.config("opt")
    config = transformers.OPTConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32, hidden_dropout_prob=0.2, initializer_range=0.3,
        bos_token_id=keys["bos_token_id"], eos_token_id=keys["eos_token_id"], pad_token_id=3,
    )  # fmt: skip
    model = transformers.OPTForCausalLM(config)
    if tied:
        model.lm_head.decoder_weight.set_value(model.opt.embeddings.word_embeddings.weight)
    model.eval()
    model.save_pretrained(str(folder))
    return model


def test_a_folder_of_paddlenlps_opt_is_read_as_paddlenlp_reads_it(tmp_path, some_ids):
    theirs = paddlenlps_opt(tmp_path, tied=True)(input_ids=paddle.to_tensor(some_ids)).numpy()
    loaded = load_model(tmp_path, "float32")
    assert loaded.model.config.dropout == 0.2 and loaded.model.config.ffn_dim == 48
    np.testing.assert_allclose(tiny.logits(loaded.model, some_ids), theirs, atol=2e-5)


def test_a_head_that_paddlenlp_trained_apart_from_opts_embedding_is_named(tmp_path):
    paddlenlps_opt(tmp_path, tied=False)
    with pytest.raises(ModelError, match="no weights of the model: lm_head.decoder_weight"):
        load_model(tmp_path, "float32")


def test_every_linear_layer_of_opt_is_found_and_neither_head_nor_embedding(model_folder):
    found = {path.split(".layers.")[-1] for path in find_linears(tiny.load(model_folder("opt")))}
    layer = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "linear1", "linear2"]
    expected = {f"{number}.{name}" for number in range(2) for name in layer}
    assert found == expected | {"opt.embeddings.project_in", "opt.decoder.project_out"}


def test_the_names_of_activations_are_those_that_can_be_computed():
    assert set(ACTIVATION_NAMES) == set(ACTIVATIONS)


def test_a_fresh_gpt2_has_the_spread_of_its_config():
    model = build_from_scratch(tiny.config("gpt2", n_embd=64, n_inner=300, n_layer=8, n_head=2), "float32", 0)
    arrays = tiny.snapshot(model.gpt2)
    for name, spread in (("wte.weight", 0.1), ("h.3.mlp.c_fc.weight", 0.1), ("h.3.mlp.c_proj.weight", 0.1 / 4)):
        assert arrays[name].std() == pytest.approx(spread, rel=0.05), name
    assert not arrays["h.0.mlp.c_fc.bias"].any() and not arrays["h.0.attn.c_attn.bias"].any()


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_each_rank_gets_queries_keys_and_values_of_its_own_heads(kind):
    """Hidden size 6, 2 heads, 2 ranks. The columns of c_attn are q of both heads, then k, then v."""
    columns = np.arange(18.0)
    tensor = np.tile(columns, (6, 1)) if kind == "weight" else columns
    parts = []
    for rank, expected in enumerate(([0, 1, 2, 6, 7, 8, 12, 13, 14], [3, 4, 5, 9, 10, 11, 15, 16, 17])):
        config = GPT2Config(n_embd=6, n_head=2, n_layer=1, vocab_size=8)
        config.tensor_parallel_degree, config.tensor_parallel_rank = 2, rank
        split = GPT2PretrainedModel._get_tensor_parallel_mappings(config)[f"gpt2.h.0.attn.c_attn.{kind}"]
        parts.append(split(tensor))
        np.testing.assert_array_equal(np.atleast_2d(parts[-1])[0], expected)
    join = GPT2PretrainedModel._get_tensor_parallel_mappings(config, is_split=False)[f"gpt2.h.0.attn.c_attn.{kind}"]
    np.testing.assert_array_equal(join(parts), tensor)


PUBLISHED = {
    "gpt2": dict(
        activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1, bos_token_id=50256,
        embd_pdrop=0.1, eos_token_id=50256, initializer_range=0.02, layer_norm_epsilon=1e-05, model_type="gpt2",
        n_ctx=1024, n_embd=768, n_head=12, n_layer=12, n_positions=1024, resid_pdrop=0.1, summary_activation=None,
        summary_first_dropout=0.1, summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True,
        task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}}, vocab_size=50257,
    ),
    "opt-350m": dict(
        _name_or_path="opt-350m", activation_dropout=0.0, activation_function="relu", architectures=["OPTForCausalLM"],
        attention_dropout=0.0, bos_token_id=2, do_layer_norm_before=False, dropout=0.1, eos_token_id=2, ffn_dim=4096,
        hidden_size=1024, init_std=0.02, layerdrop=0.0, max_position_embeddings=2048, model_type="opt",
        num_attention_heads=16, num_hidden_layers=24, pad_token_id=1, prefix="</s>", torch_dtype="float16",
        transformers_version="4.20.0.dev0", use_cache=True, vocab_size=50272, word_embed_proj_dim=512,
    ),
    "gemma-2-2b": dict(
        architectures=["Gemma2ForCausalLM"], attention_bias=False, attention_dropout=0.0, attn_logit_softcapping=50.0,
        bos_token_id=2, cache_implementation="hybrid", eos_token_id=1, final_logit_softcapping=30.0, head_dim=256,
        hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", hidden_size=2304, initializer_range=0.02,
        intermediate_size=9216, max_position_embeddings=8192, model_type="gemma2", num_attention_heads=8,
        num_hidden_layers=26, num_key_value_heads=4, pad_token_id=0, query_pre_attn_scalar=256, rms_norm_eps=1e-06,
        rope_theta=10000.0, sliding_window=4096, torch_dtype="float32", transformers_version="4.42.4", use_cache=True,
        vocab_size=256000,
    ),
    "bloom-560m": dict(
        apply_residual_connection_post_layernorm=False, attention_dropout=0.0, attention_softmax_in_fp32=True,
        bias_dropout_fusion=True, bos_token_id=1, eos_token_id=2, hidden_dropout=0.0, initializer_range=0.02,
        layer_norm_epsilon=1e-05, masked_softmax_fusion=True, model_type="bloom", n_embed=1024, n_inner=None,
        n_layer=24, num_attention_heads=16, offset_alibi=100, pad_token_id=3, pretraining_tp=1, skip_bias_add=True,
        skip_bias_add_qkv=False, slow_but_exact=False, unk_token_id=0, use_cache=True, vocab_size=250880,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_accepted_and_every_key_of_it_known(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    config = read_config(tmp_path)
    assert FAMILIES[config["model_type"]].unknown(config) == []
