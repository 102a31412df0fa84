"""Training some of a model's own weights: which, what of the run is left, and at which rate."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import build_from_scratch, unique_parameters
from paddle_sft.models.writer import renames_of
from paddle_sft.train.checkpoint import list_checkpoints, optimizer_file
from paddle_sft.train.chosen_weights import (
    choose_by_layers,
    choose_by_patterns,
    layer_of,
    set_layer_rates,
    train_only,
)
from paddle_sft.train.weights import FullWeights
from tests import tiny

NAMES = [
    "llama.embed_tokens.weight",
    *(f"llama.layers.{n}.{part}.weight" for n in range(12) for part in ("self_attn.q_proj", "mlp.up_proj", "norm")),
    "llama.norm.weight",
    "lm_head.weight",
]


def layers(names):
    return sorted({layer_of(name) for name in names} - {None})


@pytest.mark.parametrize("num, expected", [(2, [10, 11]), (-3, [0, 1, 2]), (12, list(range(12))), (1, [11])])
def test_the_last_layers_or_the_first_are_chosen_whole_and_nothing_outside(num, expected):
    chosen = choose_by_layers(NAMES, num, ["all"], [])
    assert layers(chosen) == expected and len(chosen) == 3 * len(expected)


def test_parts_of_layers_and_weights_outside_are_named_by_whole_words():
    assert choose_by_layers(NAMES, 1, ["mlp"], []) == ["llama.layers.11.mlp.up_proj.weight"]
    assert choose_by_layers(NAMES, -1, ["q_proj", "norm"], ["lm_head"]) == [
        "llama.layers.0.self_attn.q_proj.weight", "llama.layers.0.norm.weight", "lm_head.weight",
    ]  # fmt: skip
    assert choose_by_layers(NAMES, 0, ["all"], ["norm", "embed_tokens"]) == [
        "llama.embed_tokens.weight", "llama.norm.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given, message",
    [
        ((13, ["all"], []), "freeze_trainable_layers is 13, the model has 12 layers"),
        ((-13, ["all"], []), "freeze_trainable_layers is -13, the model has 12 layers"),
        ((1, ["q_porj"], []), "freeze_trainable_modules 'q_porj' matches no weight; did you mean 'q_proj'?"),
        ((1, ["proj"], []), "freeze_trainable_modules 'proj' matches no weight"),
        ((1, ["all"], ["embed_token"]), "freeze_extra_modules 'embed_token' .* did you mean 'embed_tokens'?"),
        ((0, ["all"], []), "freeze leaves nothing to train"),
    ],
)
def test_what_can_not_be_meant_is_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        choose_by_layers(NAMES, *given)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_layers_that_are_found(family):
    names = list(unique_parameters(build_from_scratch(tiny.config(family), "float32", 0)))
    first, last = choose_by_layers(names, -1, ["all"], []), choose_by_layers(names, 1, ["all"], [])
    assert layers(first) == [0] and layers(last) == [1] and len(first) == len(last) > 3 or family == "qwen2_moe"
    assert not any(layer_of(name) is not None for name in names if name not in first + last)


@pytest.mark.parametrize(
    "patterns, expected",
    [
        (["^llama.layers.1.mlp.down_proj.weight$"], ["llama.layers.1.mlp.down_proj.weight"]),
        (["model.layers.0.self_attn.o_proj", "^lm_head.weight$"],
         ["llama.layers.0.self_attn.o_proj.weight", "lm_head.weight"]),
        ([r"model\.layers\.\d+\.mlp\.up_proj"], [f"llama.layers.{n}.mlp.up_proj.weight" for n in range(2)]),
    ],
)  # fmt: skip
def test_a_list_names_weights_as_paddle_or_as_hugging_face_does(model_folder, patterns, expected):
    model = tiny.load(model_folder())
    assert choose_by_patterns(list(unique_parameters(model)), patterns, renames_of(model), "a.yaml") == expected


@pytest.mark.parametrize(
    "pattern, message",
    [("model.layers.7.mlp", "a.yaml: 'model.layers.7.mlp' matches no weight"), ("(", "is not a regular expression")],
)
def test_an_entry_that_means_nothing_is_refused(model_folder, pattern, message):
    model = tiny.load(model_folder())
    with pytest.raises(ArgumentError, match=message):
        choose_by_patterns(list(unique_parameters(model)), [pattern], renames_of(model), "a.yaml")


@pytest.fixture
def frozen(model_folder, tmp_path):
    """A trainer that trains the last layer's feed-forward network of a tiny llama."""

    def make(name, **keys):
        model = tiny.load(model_folder())
        chosen = choose_by_layers(list(unique_parameters(model)), 1, ["mlp"], [])
        train_only(model, chosen)
        weights = FullWeights(model, model_folder(), {"freeze": 1})
        keys = dict(max_steps=4, per_device_train_batch_size=3, learning_rate=0.01, **keys)
        return tiny.make_trainer(model, tmp_path / name, tiny.make_samples(9), (), weights, **keys), chosen

    return make


def test_only_the_chosen_move_and_only_they_have_optimizer_state_and_all_are_saved(frozen, tmp_path):
    trainer, chosen = frozen("run", save_strategy="steps", save_steps=2)
    before = tiny.snapshot(trainer.model)
    trainer.train()
    after = tiny.snapshot(trainer.model)
    assert {name for name in after if (after[name] != before[name]).any()} == set(chosen)
    checkpoint = list_checkpoints(tmp_path / "run")[0]
    assert {key.rsplit("/", 1)[0] for key in optimizer_file(checkpoint).specs} == set(chosen)
    assert set(tiny.snapshot(tiny.load(checkpoint))) == set(after)


def test_a_frozen_run_goes_on_bit_for_bit(frozen, tmp_path):
    whole, _ = frozen("whole", save_strategy="steps", save_steps=2)
    whole.train()
    again, _ = frozen("again")
    again.train(resume_from=list_checkpoints(tmp_path / "whole")[0])
    expected = tiny.snapshot(whole.model)
    for name, array in tiny.snapshot(again.model).items():
        np.testing.assert_array_equal(array, expected[name], name)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_each_layer_moves_by_its_own_rate(model_folder, tmp_path, optim):
    """Adam's first step is the rate itself, and so is the root mean square of Adafactor's."""
    model = tiny.load(model_folder(), trainable=True)
    factors = set_layer_rates(model, 0.5)
    before = tiny.snapshot(model)
    keys = dict(max_steps=1, learning_rate=0.01, optim=optim, max_grad_norm=0.0, lr_scheduler_type="constant")
    tiny.make_trainer(model, tmp_path / "run", tiny.make_samples(6), (), **keys).train()
    after = tiny.snapshot(model)
    expected = {
        "llama.embed_tokens.weight": 0.125, "llama.layers.0.mlp.up_proj.weight": 0.25,
        "llama.layers.1.mlp.up_proj.weight": 0.5, "llama.norm.weight": 1.0, "lm_head.weight": 1.0,
    }  # fmt: skip
    for name, factor in expected.items():
        assert factors[name] == factor
        moved = after[name].astype(np.float64) - before[name]
        seen = moved[np.abs(moved) > 0] if name == "llama.embed_tokens.weight" else moved
        if optim == "adamw":
            assert np.median(np.abs(seen)) == pytest.approx(0.01 * factor, rel=0.02), name
        elif seen is moved:  # rows of tokens that aren't there have no part in the mean
            assert np.sqrt((moved**2).mean()) == pytest.approx(0.01 * factor, rel=0.02), name


def test_embeddings_that_are_tied_to_the_head_move_like_embeddings(model_folder):
    factors = set_layer_rates(tiny.load(model_folder("gemma")), 0.5)
    tied = next(name for name in factors if layer_of(name) is None and "norm" not in name)
    assert factors[tied] == 0.125 and factors["gemma.norm.weight"] == 1.0
