"""Which layers a user's words quantise, and by what."""

from __future__ import annotations

import pytest

from paddle_sft.arguments.quant import ALGORITHMS
from paddle_sft.core.errors import ArgumentError
from paddle_sft.quant.choice import AsTrained, Choice, from_list, to_list
from paddle_sft.quant.levels import LEVELS
from paddle_sft.quant.scheme import DEFAULT_BLOCK, Scheme

PATHS = [
    f"llama.layers.{layer}.{name}" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
]


def test_names_and_defaults_are_of_the_same_algorithms():
    assert set(ALGORITHMS) == set(LEVELS) == set(DEFAULT_BLOCK)


def test_one_name_is_for_all_layers_with_the_block_of_its_kind():
    assert Choice("nf4", double_quant=True).schemes(PATHS) == dict.fromkeys(PATHS, Scheme("nf4", 64, True, 256))
    assert Choice("weight_only_int8").schemes(PATHS) == dict.fromkeys(PATHS, Scheme("weight_only_int8", 0))
    assert Choice("weight_only_int4", 32).schemes(PATHS[:1]) == {PATHS[0]: Scheme("weight_only_int4", 32)}


def test_names_and_expressions_give_layers_different_bits_and_leave_the_others():
    choice = Choice({"weight_only_int8": ["down_proj"], "nf4": [r".*layers\.0\.self_attn\..*"]})
    assert choice.schemes(PATHS) == {
        "llama.layers.0.self_attn.q_proj": Scheme("nf4", 64),
        "llama.layers.0.mlp.down_proj": Scheme("weight_only_int8", 0),
        "llama.layers.1.mlp.down_proj": Scheme("weight_only_int8", 0),
    }
    assert list(choice.schemes(PATHS)) == [path for path in PATHS if path in choice.schemes(PATHS)]  # the model's order


@pytest.mark.parametrize(
    "algorithms, words",
    [
        ({"nf4": ["down_porj"]}, "'down_porj' matches no layer, did you mean 'down_proj'.*q_proj, up_proj, down_proj"),
        ({"nf4": ["("]}, "is not a regular expression"),
        ({"nf4": [".*proj"], "fp4": ["up_proj"]}, "up_proj to nf4 and to fp4"),
        ("nf3", "nf3.*nf4"),
    ],
)
def test_what_can_not_be_is_said(algorithms, words):
    with pytest.raises(ArgumentError, match=words):
        Choice(algorithms).schemes(PATHS)


def test_schemes_survive_json():
    schemes = Choice({"weight_only_int8": ["down_proj"], "nf4": ["q_proj"]}, double_quant=True).schemes(PATHS)
    assert from_list(to_list(schemes)) == schemes and len(to_list(schemes)) == 2
    assert AsTrained(schemes).schemes([*PATHS, "lm_head"]) == schemes
