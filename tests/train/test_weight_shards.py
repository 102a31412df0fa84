"""Sharding stage 3 keeps what it says: some rows of each matrix, and nothing whole but vectors and adapters."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.models.hub import unique_parameters
from paddle_sft.train.team import Team
from paddle_sft.train.weight_shards import WeightShards
from tests import tiny

GROUP = SimpleNamespace(nranks=2, rank=1)


@pytest.fixture
def model(tmp_path):
    return tiny.load(tiny.make_model(tmp_path / "model"), trainable=True)


def test_a_matrix_is_let_go_of_and_its_rows_stay(model):
    before = tiny.snapshot(model)
    shards = WeightShards(model, GROUP)
    parameters = unique_parameters(model)
    rows = shards.rows_of(parameters)
    matrices = [name for name, one in parameters.items() if one.ndim == 2]
    assert matrices and len(shards.matrices) == len(matrices)
    for name in matrices:
        assert not parameters[name]._is_initialized()
        half = before[name].shape[0] // 2
        np.testing.assert_array_equal(rows[name].numpy(), before[name][half:])
    for name in set(parameters) - set(matrices):
        assert rows[name] is parameters[name] and parameters[name]._is_initialized()


def test_an_adapter_stays_whole_beside_its_sharded_base(model):
    attach(model, "lora", LoRAConfig(lora_rank=2), None)
    parameters = unique_parameters(model)
    rows = WeightShards(model, GROUP).rows_of(parameters)
    adapters = [name for name in parameters if is_adapters(name)]
    assert adapters and all(rows[name] is parameters[name] for name in adapters)
    assert all(rows[name].stop_gradient == parameters[name].stop_gradient for name in parameters)


def test_owners_share_out_the_numbers_evenly_and_in_the_same_way_on_every_rank(model):
    team = Team()
    team.layout = SimpleNamespace(sharding=3)
    parameters = unique_parameters(model)
    owners = team.owners(parameters)
    assert owners == team.owners(dict(reversed(list(parameters.items()))))
    loads = [sum(int(parameters[name].size) for name in owners if owners[name] == rank) for rank in range(3)]
    assert max(loads) - min(loads) <= max(int(one.size) for one in parameters.values())
