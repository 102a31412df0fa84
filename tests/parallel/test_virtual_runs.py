"""Interleaved pipelines of three and four stages equal one process: `make parallel`. A core runs in test_layouts.py."""

from __future__ import annotations

import os

import pytest

from tests.parallel.layouts import TOLERANCE, alone, distances, files, launch, make_lab

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="minutes long: make parallel sets PADDLE_SFT_PARALLEL"
)
LAYERS = 8
_PP4 = {"pipeline_parallel_degree": 4, "virtual_pp_degree": 2}
_PP2 = {"pipeline_parallel_degree": 2}
RUNS = {
    "four-full": (4, "full", _PP4, {}),
    "four-lora": (4, "lora", _PP4, {}),
    "four-recompute-lora": (4, "lora", _PP4, {"recompute": True}),
    "four-nf4": (4, "nf4", _PP4, {}),
    "parts-of-one-layer-full": (4, "full", {**_PP2, "virtual_pp_degree": 4}, {}),
    "three-full": (3, "full", {"pipeline_parallel_degree": 3, "virtual_pp_degree": 2}, {}),
    "three-lora": (3, "lora", {"pipeline_parallel_degree": 3, "virtual_pp_degree": 2}, {}),
}
"""Name -> (ranks, kind, layout, changes). A step has 4 micro-batches, the last one of the epoch a single row, so it is
filled up; of three stages two have a part of two layers and one of one."""
TP2 = {**_PP2, "tensor_parallel_degree": 2}
CHAIN = {"four-to-two-full": ("four-full", TP2), "two-to-four-full": ("four-to-two-full", _PP4)}
"""Name -> (the run whose second step it goes on from, layout)."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = make_lab(tmp_path_factory.mktemp("virtual"), "llama", num_hidden_layers=LAYERS)
    for kind in ("full", "lora", "nf4"):
        alone(lab.job(f"one-{kind}", {}, 1, kind))
    for ranks in (3, 4):
        jobs = [
            lab.job(name, layout, ranks, kind, **changes)
            for name, (wanted, kind, layout, changes) in RUNS.items()
            if wanted == ranks
        ]
        if ranks == 4:
            jobs += [lab.resumed(name, source, layout, 4, "full") for name, (source, layout) in CHAIN.items()]
        launch(jobs, ranks, lab.runs / f"log-{ranks}")
    return lab


@pytest.mark.parametrize("name", [*RUNS, *CHAIN])
def test_an_interleaved_pipeline_equals_one_process(lab, name):
    one, other = lab.output(f"one-{name.rsplit('-', 1)[-1]}"), lab.output(name)
    found = distances(one, other)
    assert max(found.values()) < TOLERANCE, found
    assert files(one) == files(other)
