"""Runs at several layouts equal one process: a core of the matrix, and a chain of resumed runs from layout to layout.

`make parallel` runs the complete matrix (test_matrix.py).
"""

from __future__ import annotations

import os

import pytest

from tests.parallel.layouts import OF_WHOLE_MODELS, TOLERANCE, TWO, alone, distances, files, launch, losses, make_lab

CORE = ("tp2", "pp2", "stage3", "sp2", "sep2", "vpp2")
CHAIN = (("one", "tp2"), ("pp2", "stage3"), ("vpp2", "tp2"), ("sp2", "vpp2"))
RECOMPUTED = ("pp2", "vpp2")
"""Where the backward pass of a micro-batch comes after the forward pass of another, of other rows."""
WHOLE = [(kind, name) for kind in OF_WHOLE_MODELS for name in ("dp2", "stage1", "stage2")]
"""Layouts in which every rank has the whole model: they take a quantised base, and every adapter."""
if not os.environ.get("PADDLE_SFT_PARALLEL"):
    WHOLE = [("nf4", "stage2"), ("vera", "dp2")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = make_lab(tmp_path_factory.mktemp("layouts"))
    alone(lab.job("one", {}, 1, "lora"))
    jobs = [lab.job(name, TWO[name], 2, "lora") for name in CORE]
    jobs += [lab.resumed(f"{begin}-to-{end}", begin, TWO[end], 2, "lora") for begin, end in CHAIN]
    jobs += [lab.job(f"{name}-recompute", TWO[name], 2, "lora", recompute=True) for name in RECOMPUTED]
    for kind in OF_WHOLE_MODELS:
        alone(lab.job(kind, {}, 1, kind))
    jobs += [lab.job(f"{kind}-{name}", TWO[name], 2, kind) for kind, name in WHOLE]
    launch(jobs, 2, lab.runs / "log-2")
    alone(lab.resumed("sp2-to-one", "sp2", {}, 1, "lora"))
    return lab


NAMES = (
    *CORE,
    *(f"{begin}-to-{end}" for begin, end in CHAIN),
    *(f"{name}-recompute" for name in RECOMPUTED),
    "sp2-to-one",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_at_a_layout_equals_one_process(lab, name):
    found = distances(lab.output("one"), lab.output(name))
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_the_files_of_one_process(lab, name):
    assert files(lab.output(name)) == files(lab.output("one"))
    for file in ("adapter.json", "checkpoint-2/adapter.json"):
        assert (lab.output(name) / file).read_bytes() == (lab.output("one") / file).read_bytes()


@pytest.mark.parametrize("kind, name", WHOLE)
def test_ranks_with_the_whole_model_take_a_quantised_base_and_other_adapters(lab, kind, name):
    found = distances(lab.output(kind), lab.output(f"{kind}-{name}"))
    assert max(found.values()) < TOLERANCE, found
    assert losses(lab.output(kind)) != losses(lab.output("one"))


def test_losses_differ_from_step_to_step(lab):
    """So that equal ones say something."""
    assert len({round(loss, 3) for loss in losses(lab.output("one"))}) > 1
