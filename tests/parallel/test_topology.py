"""Layouts are numbers: who sits where, what fits a model, and what is suggested where nothing does."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.errors import ArgumentError
from paddle_sft.parallel.topology import Layout, Sizes, layer_ranges, make_layout, require_fitting

SIZES = Sizes(layers=4, heads=8, groups=2, vocabulary=96, inner=48)


def layout(ranks, stage=0, sequence_parallel=False, chunks=1, **degrees):
    return make_layout(degrees, stage, ranks, sequence_parallel, chunks)


def test_what_the_degrees_leave_is_data_parallel():
    assert layout(16, tensor=2, pipeline=2) == Layout(data=4, pipeline=2, tensor=2)
    assert layout(8, stage=1, sharding=-1, tensor=2) == Layout(sharding=4, tensor=2, stage=1)
    assert layout(8, stage=1, sharding=2) == Layout(data=4, sharding=2, stage=1)


def test_every_rank_has_a_place_of_its_own_and_neighbours_share_layers():
    one = Layout(data=2, pipeline=2, sharding=2, tensor=2)
    places = {tuple(one.place(rank).values()) for rank in range(16)}
    assert len(places) == 16
    assert one.groups(("tensor",))[0] == [0, 1]
    assert sorted(sum(one.groups(("pipeline", "tensor")), [])) == list(range(16))
    assert one.groups(("data", "sharding"))[0] == [0, 2, 8, 10]


def test_ranks_of_a_model_see_the_same_rows_and_the_others_do_not():
    one = Layout(data=2, pipeline=2, sharding=2, tensor=2)
    assert one.data_ranks == 4
    for ranks in one.groups(("pipeline", "tensor", "sep")):
        assert len({one.data_rank(rank) for rank in ranks}) == 1
    assert {one.data_rank(rank) for rank in range(16)} == {0, 1, 2, 3}


@pytest.mark.parametrize("ranks, wrong", [(6, {"tensor": 4}), (4, {"tensor": 2, "pipeline": 3})])
def test_degrees_that_do_not_share_out_the_ranks_are_refused_with_a_layout_that_does(ranks, wrong):
    with pytest.raises(ArgumentError, match=f"this run has {ranks}.*nearest layout.*works: tensor_parallel_degree"):
        layout(ranks, **wrong)


def test_sharding_among_one_rank_is_refused():
    with pytest.raises(ArgumentError, match="sharding stage1.*lower tensor_parallel_degree"):
        layout(2, stage=1, sharding=-1, tensor=2)


@pytest.mark.parametrize(
    "one, said",
    [
        (Layout(tensor=4), "2 key and value heads"),
        (Layout(pipeline=8), "needs 8 layers, and the model has 4"),
        (Layout(sep=4), "sep_parallel_degree 4 does not divide the model's 2 key and value heads"),
        (Layout(pipeline=2, chunks=3), "virtual_pp_degree 3 needs 6 layers"),
    ],
)
def test_a_model_that_can_not_be_cut_so_is_named_with_what_would_work(one, said):
    with pytest.raises(ArgumentError, match=f"{said}.*nearest layout of {one.ranks} ranks that works"):
        require_fitting(one, SIZES)


def test_the_suggested_layout_works():
    with pytest.raises(ArgumentError) as refused:
        require_fitting(Layout(tensor=8), SIZES)
    assert "tensor_parallel_degree 2" in str(refused.value) and "(2 tensor x 4 data)" in str(refused.value)
    require_fitting(Layout(tensor=2, data=4), SIZES)


@pytest.mark.parametrize("layers, stages, chunks", [(4, 2, 1), (7, 3, 1), (8, 2, 2), (5, 4, 1)])
def test_every_layer_is_on_one_stage_and_stages_differ_by_one(layers, stages, chunks):
    ranges = layer_ranges(layers, stages, chunks)
    found = sorted(number for stage in ranges for first, last in stage for number in range(first, last))
    assert found == list(range(layers)) and len(ranges) == stages
    sizes = [last - first for stage in ranges for first, last in stage]
    assert max(sizes) - min(sizes) <= 1
    assert np.all(np.diff([stage[0][0] for stage in ranges]) > 0)
