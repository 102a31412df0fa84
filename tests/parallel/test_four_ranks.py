"""Adapters, and adapters on codes, where four ranks split a model in several ways at once, each against one process:
`make parallel`."""

from __future__ import annotations

import os

import pytest

from tests.parallel import layouts
from tests.parallel.layouts import FOUR, TOLERANCE, alone, distances, files, launch, make_lab
from tests.parallel.test_adapters import keys_of, strays

pytestmark = pytest.mark.skipif(
    not os.environ.get("PADDLE_SFT_PARALLEL"), reason="minutes long: make parallel sets PADDLE_SFT_PARALLEL"
)
LAYOUTS = {**FOUR, "tp4": {"tensor_parallel_degree": 4}, "pp4": {"pipeline_parallel_degree": 4}}
OF_LAYOUT = {
    "tp2-pp2": ("dora", "pissa", "ia3", "oft", "adalora", "prefix_tuning", "nf4"),
    "tp2-pp2-sp": ("dora", "vera", "loha", "prompt_tuning", "reft", "nf4"),
    "tp4": ("dora",),
    "pp4": ("nf4", "vera"),
}
CASES = [(method, layout) for layout, methods in OF_LAYOUT.items() for method in methods]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = make_lab(tmp_path_factory.mktemp("four"), "qwen2", num_key_value_heads=4, intermediate_size=64)
    patch = pytest.MonkeyPatch()
    for method in dict.fromkeys(method for method, _ in CASES):
        patch.setitem(layouts.KINDS, method, keys_of(method))
        alone(lab.job(f"one-{method}", {}, 1, method))
    launch([lab.job(f"{method}-{name}", LAYOUTS[name], 4, method) for method, name in CASES], 4, lab.runs / "log")
    yield lab
    patch.undo()


@pytest.mark.parametrize("method, name", CASES)
def test_an_adapter_on_four_ranks_equals_one_process(lab, method, name):
    one, other = lab.output(f"one-{method}"), lab.output(f"{method}-{name}")
    found = distances(one, other)
    assert max(found.values()) < TOLERANCE, found
    assert strays(one, other) == {}
    assert files(one) == files(other)
    assert (one / "adapter.json").read_bytes() == (other / "adapter.json").read_bytes()
