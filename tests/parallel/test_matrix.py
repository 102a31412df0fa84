"""The complete matrix of layouts and kinds of training, each against one process: `make parallel`, a few minutes."""

from __future__ import annotations

import os

import pytest

from tests.parallel.layouts import FOUR, KINDS, TOLERANCE, TWO, alone, distances, files, launch, make_lab

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="minutes long: make parallel sets PADDLE_SFT_PARALLEL"
)
FAMILIES = {"llama": {}, "qwen2": {}, "qwen3": {}}
"""qwen2 has a tied head here: it is on the first and on the last stage."""
FOUR_CHAIN = (("tp2-pp2", "pp2-stage1"), ("pp2-stage1", "tp2-pp2-sp"), ("vpp2-stage1", "tp2-pp2"))


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    found = {}
    for family, changes in FAMILIES.items():
        lab = found[family] = make_lab(tmp_path_factory.mktemp(family), family, **changes)
        for kind in KINDS:
            alone(lab.job(f"one-{kind}", {}, 1, kind))
        for ranks, layouts in ((2, TWO), (4, FOUR)):
            if ranks == 4 and family == "qwen3":
                continue
            jobs = [lab.job(f"{name}-{kind}", layouts[name], ranks, kind) for name in layouts for kind in KINDS]
            if ranks == 4:
                jobs += [
                    lab.resumed(f"{begin}-to-{end}-{kind}", f"{begin}-{kind}", FOUR[end], 4, kind)
                    for begin, end in FOUR_CHAIN
                    for kind in KINDS
                ]
            launch(jobs, ranks, lab.runs / f"log-{ranks}")
    return found


CASES = [
    (family, name)
    for family in FAMILIES
    for name in (*TWO, *(() if family == "qwen3" else (*FOUR, *(f"{a}-to-{b}" for a, b in FOUR_CHAIN))))
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family, name", CASES, ids=[f"{family}-{name}" for family, name in CASES])
def test_a_run_at_a_layout_equals_one_process(labs, family, name, kind):
    one, other = labs[family].output(f"one-{kind}"), labs[family].output(f"{name}-{kind}")
    found = distances(one, other)
    assert max(found.values()) < TOLERANCE, found
    assert files(one) == files(other)
