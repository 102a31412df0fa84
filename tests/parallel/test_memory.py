"""The model of memory: against networks that are built, against the trainer's own sharing out, and by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from paddle_sft.models.catalogue import FAMILIES as KNOWN
from paddle_sft.models.hub import build_empty, unique_parameters
from paddle_sft.models.linears import find_linears
from paddle_sft.parallel.held import BUCKET, find_held, largest_share, state_of
from paddle_sft.parallel.memory import predict, predict_stage
from paddle_sft.parallel.recipe import Recipe
from paddle_sft.parallel.shape import FAMILIES, SHAPES, ModelShape
from paddle_sft.parallel.topology import Layout
from paddle_sft.parallel.traffic import cost_of
from paddle_sft.quant.scheme import Scheme
from paddle_sft.train import gradients
from paddle_sft.train.team import Team
from tests import tiny

SHAPE = ModelShape("llama", 256, 4, 8, 4, 32, 688, 4000)
RECIPE = Recipe(rows=1, length=512, accumulation=8)


def shape_of(name: str) -> ModelShape:
    return ModelShape.of({"model_type": "llama", **SHAPES[name]}, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_paths_are_those_of_the_network(family):
    config = {**KNOWN[family].defaults(), **tiny.config(family)}
    network, shape = build_empty(config, "float32"), ModelShape.of(config, family)
    assert shape.parameters == sum(one.size for one in unique_parameters(network).values())
    assert shape.paths() == list(find_linears(network))
    held = find_held(shape, RECIPE, Layout(), 0)
    assert sorted(held.whole) == sorted(one.size for one in unique_parameters(network).values())


@pytest.mark.parametrize(("name", "parameters"), [("8B", 8030261248), ("70B", 70553706496), ("405B", 405853388800)])
def test_the_known_shapes_have_the_published_numbers_of_parameters(name, parameters):
    assert shape_of(f"meta-llama/Llama-3.1-{name}").parameters == parameters


@pytest.mark.parametrize("weight_bytes", [4, 2])
def test_full_training_with_adamw_holds_sixteen_bytes_a_parameter(weight_bytes):
    recipe = replace(RECIPE, weight_bytes=weight_bytes, compute_bytes=weight_bytes)
    held = find_held(SHAPE, recipe, Layout(), 0)
    stays, added, state = state_of(held, recipe, Layout())
    assert held.weights + stays + state == 16 * SHAPE.parameters and added == 0


def test_offloaded_state_is_not_on_the_device():
    recipe, layout = replace(RECIPE, weight_bytes=2, compute_bytes=2), Layout(sharding=2, stage=1)
    whole, less = (predict(SHAPE, replace(recipe, offloads=one), layout).peak for one in (False, True))
    assert less.parts["optimizer"] == 0 and whole.parts["optimizer"] >= 12 * SHAPE.parameters / 2
    assert less.parts["weights"] == whole.parts["weights"]


def test_a_base_in_four_bits_has_the_bytes_of_its_scheme():
    scheme = Scheme("nf4", 64, True)
    recipe = replace(
        RECIPE, lora_rank=8, targets=frozenset(SHAPE.paths()), schemes=dict.fromkeys(SHAPE.paths(), scheme)
    )
    linears = [one.whole for layer in range(4) for one in SHAPE.matrices(layer)]
    adapter = sum(8 * (rows + columns) for rows, columns in linears)
    others = SHAPE.parameters - sum(rows * columns for rows, columns in linears)
    held = find_held(SHAPE, recipe, Layout(), 0)
    assert held.weights == 4 * (others + adapter) + sum(scheme.num_bytes(*one) for one in linears)
    assert held.trained == adapter


def test_ranks_of_tensor_parallelism_share_out_the_codes():
    """Blocks of down_proj, 688 inputs in parts of 344, are cut into pieces of 8, which keep floats for scales."""
    codes = {}
    for tensor in (1, 2):
        recipe = replace(RECIPE, lora_rank=8, schemes=dict.fromkeys(SHAPE.paths(), Scheme("nf4", 64, True)))
        plain = replace(recipe, schemes={}, weight_bytes=0)
        layout = Layout(tensor=tensor)
        coded = replace(recipe, weight_bytes=0)
        codes[tensor] = find_held(SHAPE, coded, layout, 0).weights - find_held(SHAPE, plain, layout, 0).weights
    down = 4 * 688 * 256
    scale_floats = 4 * down // 8 - down * 8 // 64 // 8 - 4 * (down // 64 // 256)
    assert 0 <= 2 * codes[2] - codes[1] - scale_floats < 0.01 * codes[1]


def test_the_parts_of_all_ranks_are_the_model():
    layout = Layout(pipeline=2, tensor=2)
    norms = (2 * 4 + 1) * 256  # which both ranks of tensor parallelism have
    parts = sum(find_held(SHAPE, RECIPE, layout, stage).trained for stage in (0, 1))
    assert 2 * parts - norms == SHAPE.parameters


def test_state_is_shared_out_as_the_trainer_does_it():
    sizes = find_held(SHAPE, RECIPE, Layout(), 0).whole
    for ranks in (2, 3, 8):
        team = Team.__new__(Team)
        team.layout = Layout(sharding=ranks, stage=1)
        named = {f"p{number:03}": SimpleNamespace(size=size) for number, size in enumerate(sizes)}
        owners, loads = team.owners(named), [0] * ranks
        for name, owner in owners.items():
            loads[owner] += named[name].size
        assert largest_share(sizes, ranks) == max(loads)
    assert BUCKET == gradients._BUCKET


def test_a_stage_of_a_pipeline_keeps_as_many_micro_batches_as_stages_follow():
    layout = Layout(pipeline=4)
    kept = {stage: predict_stage(SHAPE, RECIPE, layout, stage).moments[0].parts["activations"] for stage in range(4)}
    assert kept[0] == pytest.approx(4 * kept[3]) and kept[1] == pytest.approx(3 * kept[3])
    few = predict_stage(SHAPE, replace(RECIPE, accumulation=2), layout, 0).moments[0].parts["activations"]
    assert few == pytest.approx(2 * kept[3])


def test_stage_three_needs_the_whole_model_while_it_loads():
    need = predict(SHAPE, RECIPE, Layout(sharding=8, stage=3))
    assert need.at("loading") == 4 * SHAPE.parameters


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dict(recompute="full"), {}),
        (dict(recompute="full_attn"), {}),
        ({}, dict(length=1024)),
        ({}, dict(rows=2)),
        (dict(compute_bytes=2, weight_bytes=2, on_gpu=True), dict(on_gpu=True)),
    ],
)
def test_what_saves_memory_saves_some(one, other):
    base = replace(RECIPE, on_gpu=False)
    assert predict(SHAPE, replace(base, **one), Layout()).peak.total < (
        predict(SHAPE, replace(base, **other), Layout()).peak.total
    )


def test_messages_are_those_of_rings_and_slower_between_nodes():
    gradients_of_two = 2 * (1 / 2) * 4 * SHAPE.parameters
    assert cost_of(SHAPE, RECIPE, Layout(data=2), 2).sent["data"] == gradients_of_two
    layout = Layout(tensor=2)
    one_sum = 2 * (1 / 2) * 512 * 256 * 4  # of the hidden states of a micro-batch
    assert cost_of(SHAPE, RECIPE, layout, 2).sent["tensor"] == 8 * 4 * 7 * one_sum
    assert cost_of(SHAPE, RECIPE, layout, 1).seconds > cost_of(SHAPE, RECIPE, layout, 2).seconds
    assert cost_of(SHAPE, RECIPE, Layout(pipeline=4), 4).bubble == 3 / 11


def test_with_several_parts_a_stage_keeps_more_and_smaller_ones_and_waits_less():
    layout = Layout(pipeline=2, chunks=2)
    assert sum(find_held(SHAPE, RECIPE, layout, stage).trained for stage in (0, 1)) == SHAPE.parameters
    one, two = (
        predict_stage(SHAPE, RECIPE, where, 0).moments[0].parts["activations"] for where in (Layout(pipeline=2), layout)
    )
    assert one < two < 1.5 * one  # 5 parts of a layer and what they were sent, where it was 2 of two layers
    plain, interleaved = (cost_of(SHAPE, RECIPE, where, 2) for where in (Layout(pipeline=2), layout))
    assert interleaved.sent["pipeline"] == 2 * plain.sent["pipeline"]
    assert (plain.bubble, interleaved.bubble) == (1 / 9, 1 / 17)
