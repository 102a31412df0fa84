"""Keys of a quantised base: what they mean, and what they don't go with."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.load import load_finetune_arguments, load_quantize_arguments
from paddle_sft.core.errors import ArgumentError

BASE = dict(model_name_or_path="m", dataset_name_or_path="d", output_dir="o", do_train=True, lora=True)


@pytest.fixture
def read(tmp_path):
    def load(**keys):
        (tmp_path / "a.json").write_text(json.dumps({**BASE, **keys}), encoding="utf-8")
        return load_finetune_arguments([str(tmp_path / "a.json")])

    return load


@pytest.mark.parametrize(
    "keys, algorithm",
    [
        (dict(weight_quantize_algo="fp4"), "fp4"),
        (dict(quantization_bit=4), "nf4"),
        (dict(quantization_bit=8), "weight_only_int8"),
        (dict(load_in_4bit=True), "nf4"),
        (dict(load_in_8bit=True), "weight_only_int8"),
        (dict(weight_quantize_algo={"nf4": ["q_proj"]}), {"nf4": ["q_proj"]}),
        (dict(quantization_bit=None, load_in_8bit=False), None),
    ],
)
def test_every_spelling_means_an_algorithm(read, keys, algorithm):
    assert read(**keys).quant.weight_quantize_algo == algorithm


def test_blocks_and_scales_have_their_keys(read):
    quant = read(load_in_4bit=True, weight_blocksize=-1, bnb_4bit_use_double_quant=True).quant
    assert (quant.weight_blocksize, quant.weight_double_quant, quant.weight_double_quant_block_size) == (-1, True, 256)
    assert read(weight_blocksize=32).derived["weight_blocksize"] == (32, "not used: weight_quantize_algo is off")
    note = read(load_in_4bit=True, weight_double_quant_block_size=128).derived["weight_double_quant_block_size"]
    assert note == (128, "not used: weight_double_quant is off")


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(weight_quantize_algo="int8"), 'is "int8", did you mean weight_only_int8.*allowed: weight_only_int8, '),
        (dict(weight_quantize_algo="nf_4"), "did you mean nf4"),
        (dict(weight_quantize_algo="NF4"), 'is "NF4", did you mean nf4'),
        (dict(weight_quantize_algo="llm.int8"), "did you mean weight_only_int8"),
        (dict(weight_quantize_algo={"int4": ["q_proj"]}), "did you mean weight_only_int4"),
        (dict(weight_quantize_algo={"nf4": "q_proj"}), "gives each algorithm a list of layers.*see nf4"),
        (dict(weight_quantize_algo={}), "gives each algorithm a list of layers"),
        (dict(weight_quantize_algo="nf4", lora=False), "freezes the base, and without an adapter.*lora"),
        (dict(weight_quantize_algo="nf4", weight_blocksize=0), "weight_blocksize must be at least 1, or -1"),
        (dict(quantization_bit=3), "quantization_bit.*4.*8"),
        (dict(load_in_4bit=True, load_in_8bit=True), "load_in_8bit"),
    ],
)
def test_what_does_not_go_is_said_with_what_does(read, keys, words):
    with pytest.raises(ArgumentError, match=words):
        read(**keys)


def test_random_weights_are_not_quantised(read):
    with pytest.raises(ArgumentError, match="config_name makes random ones"):
        read(weight_quantize_algo="nf4", model_name_or_path=None, config_name="c")


def test_a_quantised_base_may_be_evaluated_without_an_adapter(read):
    assert (
        read(weight_quantize_algo="nf4", lora=False, do_train=False, do_eval=True).quant.weight_quantize_algo == "nf4"
    )


def test_quantize_takes_the_model_first():
    found = load_quantize_arguments(
        ["base", "--output", "codes", "--weight_quantize_algo", "nf4", "--weight_double_quant"]
    )
    assert (found.model_name_or_path, found.output_path, found.weight_double_quant) == ("base", "codes", True)
    same = ["--model_name_or_path", "base", "--output_path", "codes", "--weight_quantize_algo", '{"fp4": ["q_proj"]}']
    assert load_quantize_arguments(same).weight_quantize_algo == {"fp4": ["q_proj"]}


@pytest.mark.parametrize(
    "words, said",
    [
        (["base"], "output_path is missing"),
        (["--output", "o"], "model_name_or_path is missing"),
        (["base", "--output", "o"], "weight_quantize_algo is missing; add --weight_quantize_algo nf4"),
        (["base", "--output", "o", "--weight_quantize_algo", "int4"], "did you mean weight_only_int4"),
        (
            ["base", "--output", "o", "--weight_quantize_algo", "nf4", "--max_shard_size", "big"],
            "max_shard_size must be",
        ),
    ],
)
def test_quantize_says_what_is_missing_or_wrong(words, said):
    with pytest.raises(ArgumentError, match=said):
        load_quantize_arguments(words)
