"""Quantisation-aware training on two ranks: `make parallel`."""

from __future__ import annotations

import os

import numpy as np
import pytest

from paddle_sft.core.tensorfile import TensorFile
from paddle_sft.train.aware_weights import QUANTERS
from tests.parallel.layouts import TOLERANCE, TWO, alone, distances, farthest, launch, losses, make_lab

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="minutes long: make parallel sets PADDLE_SFT_PARALLEL"
)
WEIGHTS_ONLY = {"qat": "weight_only_int8"}
INPUTS_TOO = {"qat": "a8w8", "packing": "none"}
"""Packed, the data is over in the third step, and one rank has nothing to see in it."""
LAYOUTS = ("dp2", "stage2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The dev split has one batch, so that one rank evaluates it and the other has no pass at all."""
    lab = make_lab(tmp_path_factory.mktemp("aware"))
    alone(lab.job("one", {}, 1, "full", **WEIGHTS_ONLY))
    jobs = [lab.job(name, TWO[name], 2, "full", **WEIGHTS_ONLY) for name in LAYOUTS]
    jobs += [lab.job("inputs", TWO["dp2"], 2, "full", **INPUTS_TOO)]
    again = [str(lab.output("inputs")), str(lab.output("inputs-resumed"))]
    jobs += [lab.job("inputs-resumed", TWO["dp2"], 2, "full", **INPUTS_TOO, _rewind=again)]
    launch(jobs, 2, lab.runs / "log", seconds=150)
    return lab


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_train_on_rounded_weights_as_one_process_does(lab, name):
    found = distances(lab.output("one"), lab.output(name))
    assert max(found.values()) < TOLERANCE, found


def test_a_resumed_run_with_rounded_inputs_is_the_uninterrupted_one(lab):
    """Each rank sees other inputs; what is saved has to be what every rank goes on with."""
    whole, again = lab.output("inputs"), lab.output("inputs-resumed")
    assert losses(whole) == losses(again) and len(losses(whole)) == 3
    assert losses(whole, "eval_loss")[-1] == losses(again, "eval_loss")[-1]
    assert farthest(whole / "model.safetensors", again / "model.safetensors") == 0
    one, other = TensorFile(whole / QUANTERS), TensorFile(again / QUANTERS)
    assert one.specs.keys() == other.specs.keys() and one.specs
    for name in one.specs:
        np.testing.assert_array_equal(one.read(name), other.read(name), name)
