"""Families beyond those of the complete matrix: each, split in every way that it says of itself, equals one process:
`make parallel`."""

from __future__ import annotations

import os

import pytest

from paddle_sft.models.catalogue import FAMILIES
from tests.parallel.layouts import TOLERANCE, TWO, alone, distances, files, launch, make_lab
from tests.parallel.test_matrix import FAMILIES as IN_MATRIX

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="minutes long: make parallel sets PADDLE_SFT_PARALLEL"
)
LAYOUTS = {
    "tp2": (("tensor",), ("full", "lora")),
    "pp2": (("pipeline",), ("full", "lora")),
    "sp2": (("tensor", "sequence"), ("lora",)),
    "sep2": (("sep",), ("lora",)),
    "stage3": (("stage3",), ("full", "lora")),
    "vpp2": (("pipeline",), ("full",)),
}
"""Layout -> (how it splits a model, in the words of `Family.splits`; what is trained)."""
MORE = [name for name, family in FAMILIES.items() if family.splits and name not in IN_MATRIX]
SIZES = {"gemma": {"num_key_value_heads": 2}}
CASES = [
    (family, layout, kind)
    for family in MORE
    for layout, (needs, kinds) in LAYOUTS.items()
    if set(needs) <= set(FAMILIES[family].splits)
    for kind in kinds
]
RATE = 0.0003
"""A step of Adam moves a weight by up to this, whatever the gradient: of one that is all rounding (1e-8 here), too. The
moments are compared as they are."""


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    found, jobs = {}, []
    for family in MORE:
        lab = found[family] = make_lab(tmp_path_factory.mktemp(family), family, **SIZES.get(family, {}))
        for kind in ("full", "lora"):
            alone(lab.job(f"one-{kind}", {}, 1, kind, learning_rate=RATE))
        mine = [(layout, kind) for one, layout, kind in CASES if one == family]
        jobs += [lab.job(f"{layout}-{kind}", TWO[layout], 2, kind, learning_rate=RATE) for layout, kind in mine]
    launch(jobs, 2, tmp_path_factory.mktemp("log"))
    return found


@pytest.mark.parametrize("family, layout, kind", CASES)
def test_a_family_that_is_split_equals_one_process(labs, family, layout, kind):
    one, other = labs[family].output(f"one-{kind}"), labs[family].output(f"{layout}-{kind}")
    found = distances(one, other)
    assert max(found.values()) < TOLERANCE, found
    assert files(one) == files(other)
