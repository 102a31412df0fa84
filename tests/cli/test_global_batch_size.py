"""global_batch_size keeps a step's samples whatever the number of ranks."""

from __future__ import annotations

import re

import pytest

from paddle_sft.arguments.train import TrainArguments
from paddle_sft.cli.run_data import accumulation
from paddle_sft.core.errors import ArgumentError
from paddle_sft.train.plan import StepShape


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_a_step_has_as_many_samples_for_any_number_of_ranks(ranks):
    train = TrainArguments(per_device_train_batch_size=2, global_batch_size=24)
    assert StepShape(2, accumulation(train, ranks), ranks).rows_per_step == 24


def test_without_it_accumulation_is_what_was_asked_for():
    assert accumulation(TrainArguments(gradient_accumulation_steps=3), 4) == 3


@pytest.mark.parametrize(
    "changes, ranks, complaint",
    [
        (
            {"gradient_accumulation_steps": 2},
            1,
            "gradient_accumulation_steps 2 and global_batch_size 4 were both given",
        ),
        ({}, 4, "no multiple of 8 (per_device_train_batch_size 2 x 4 rank(s)"),
        ({}, 4, "per_device_train_batch_size 1 does"),
        ({}, 3, "choose a multiple of 3"),
    ],
)
def test_what_can_not_be_cut_is_refused_with_what_can(changes, ranks, complaint):
    train = TrainArguments(per_device_train_batch_size=2, global_batch_size=4, **changes)
    with pytest.raises(ArgumentError, match=re.escape(complaint)):
        accumulation(train, ranks)
