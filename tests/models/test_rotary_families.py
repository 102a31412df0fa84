"""What is ours in llama, mistral, qwen2, qwen3 and phi3. tests/parity compares what they compute with transformers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import to_paddlenlp
from paddle_sft.models.family import find_named
from paddle_sft.models.hub import build_from_scratch, unique_parameters
from paddle_sft.models.linears import find_linears
from paddle_sft.models.networks.blocks import fused_action
from paddle_sft.models.renames import rename_table
from tests import tiny


def build(family, **changes):
    config = {**FAMILIES[family].defaults(), **tiny.config(family, **changes)}
    return build_from_scratch(config, "float32", seed=0)


SHAPES = [
    ("llama", dict(head_dim=12, attention_bias=True, mlp_bias=True)),
    ("mistral", dict(head_dim=12, tie_word_embeddings=True)),
    ("qwen2", dict(head_dim=12)),
    ("qwen3", dict(attention_bias=False)),
    ("qwen3", dict(attention_bias=True, tie_word_embeddings=True)),
    ("phi3", {}),
]
COLUMNS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")


def parts(family, changes, is_split):
    """Names of all weights -> the action of tensor parallelism over two ranks."""
    config = to_paddlenlp({**FAMILIES[family].defaults(), **tiny.config(family, **changes)})
    config.tensor_parallel_degree, config.tensor_parallel_rank = 2, None if is_split else 0
    model_class = find_named(FAMILIES[family].model_class)
    names = list(unique_parameters(build(family, **changes)))
    return model_class.get_tensor_parallel_convert_actions(config, names, is_split=is_split, ignore_error=True)


@pytest.mark.parametrize("family, changes", SHAPES)
def test_every_weight_is_split_over_ranks_where_its_layer_is(family, changes):
    weights = {name: parameter.numpy() for name, parameter in unique_parameters(build(family, **changes)).items()}
    split, merge = parts(family, changes, True), parts(family, changes, False)
    assert split.keys() == merge.keys() <= {*weights, "lm_head.weight"}
    for name, weight in weights.items():
        layer, kind = name.split(".")[-2:]
        by_column = layer in (*COLUMNS, "lm_head")
        by_row = layer in ("o_proj", "down_proj", "embed_tokens") and kind == "weight"
        assert (name in split) == (by_column or by_row), name
        if name in split:
            shares = split[name](weight)
            half = list(weight.shape)
            half[-1 if by_column else 0] //= 2
            assert [list(share.shape) for share in shares] == [half] * 2, name
            np.testing.assert_array_equal(merge[name](shares), weight, err_msg=name)


def test_ranks_get_their_share_of_each_fused_matrix():
    class Config:
        tensor_parallel_degree = 2
        tensor_parallel_rank = 1

    whole = np.arange(16).reshape(2, 8)  # columns 0 to 3, 4 to 5 and 6 to 7 are a matrix each
    share = fused_action(Config, [4, 2, 2], is_split=True)(whole)
    np.testing.assert_array_equal(share, whole[:, [2, 3, 5, 7]])
    shares = [paddle.to_tensor(whole[:, [0, 1, 4, 6]]), paddle.to_tensor(share)]
    np.testing.assert_array_equal(fused_action(Config, [4, 2, 2], is_split=False)(shares).numpy(), whole)


@pytest.mark.parametrize("family, changes", SHAPES)
def test_every_weight_has_a_name_in_a_hugging_face_folder(family, changes):
    model = build(family, **changes)
    pieces = rename_table(type(model), model.config).of_paddle
    known = {name for name in pieces if not name.endswith("inv_freq")}
    assert known == set(unique_parameters(model))


@pytest.mark.parametrize("family, changes", SHAPES)
def test_linear_layers_are_those_of_the_blocks(family, changes):
    found = {path.rsplit(".", 1)[-1] for path in find_linears(build(family, **changes))}
    separate = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert found == ({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"} if family == "phi3" else separate)


@pytest.mark.parametrize("family, changes", SHAPES)
def test_fresh_layers_are_drawn_as_paddlenlp_draws_them(family, changes):
    model = build(family, **changes, initializer_range=0.5, hidden_size=64, intermediate_size=96)
    for name, weight in unique_parameters(model).items():
        if weight.ndim == 2:
            deep = name.split(".")[-2] in ("o_proj", "down_proj")
            assert weight.numpy().std() == pytest.approx(0.25 if deep else 0.5, rel=0.15), name
        else:
            assert np.unique(weight.numpy()).tolist() == [0.0 if name.endswith("bias") else 1.0], name


def test_a_tied_mistral_has_one_matrix_for_both_ends():
    model = build("mistral", tie_word_embeddings=True)
    assert model.lm_head.weight is model.mistral.embed_tokens.weight
    assert "lm_head.weight" not in unique_parameters(model)


@pytest.mark.parametrize("family", ["llama", "mistral", "bloom"])
def test_the_padding_token_is_read_and_only_some_families_train_its_embedding(family):
    model = build(family, pad_token_id=7)
    embedding = model.get_input_embeddings()
    embedding.weight.stop_gradient = False
    vectors = embedding(paddle.to_tensor([[6, 7]]))
    np.testing.assert_array_equal(vectors.numpy()[0], embedding.weight.numpy()[6:8])
    vectors.sum().backward()
    trained = np.flatnonzero(np.abs(embedding.weight.grad.numpy()).max(axis=1))
    assert trained.tolist() == ([6, 7] if family == "bloom" else [6])
