"""Adapters in a model that is split over ranks equal one process; a method of the catalogue is compared as soon as it
says that it goes there. `make test` has a few of them, `make parallel` all."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.cli.run_parallel import KINDS as KEYS
from paddle_sft.cli.run_parallel import require_layout
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.tensorfile import TensorFile
from paddle_sft.parallel.topology import Layout
from paddle_sft.train.weights import MEMORY
from tests import tiny
from tests.e2e.commands import here
from tests.parallel import layouts
from tests.parallel.layouts import TOLERANCE, TWO, alone, distances, farthest, files, launch, make_lab

NEEDS = {
    "tp2": ("tensor",),
    "pp2": ("pipeline",),
    "sp2": ("tensor", "sequence"),
    "sep2": ("sep",),
    "stage3": ("stage3",),
}
"""Layout -> how it splits a model, in the words of `Method.splits`."""
_VIRTUAL = {"num_virtual_tokens": 5, "max_length": 64}
NUMBERS = {
    "adalora": {"adalora_tinit": 1, "adalora_tfinal": 0, "adalora_delta_t": 1, "adalora_init_r": 4,
                "adalora_target_r": 2},
    "bottleneck": {"bottleneck_size": 8}, "oft": {"oft_block_size": 8}, "loha": {"loha_rank": 2},
    "lokr": {"lokr_rank": 4}, "vera": {"vera_rank": 4}, "reft": {"rank": 4, "position": "f2+l3"},
    "prompt_tuning": _VIRTUAL, "p_tuning": _VIRTUAL, "prefix_tuning": _VIRTUAL,
}  # fmt: skip
QUANTISED = {
    "nf4": {"lora": True, "lora_rank": 4, "weight_quantize_algo": "nf4", "weight_double_quant": True},
    "int8": {"adapter": "dora", "lora_rank": 4, "weight_quantize_algo": "weight_only_int8"},
    "int4": {"adapter": "pissa", "lora_rank": 4, "weight_quantize_algo": "weight_only_int4", "weight_blocksize": 32},
    "fp4": {"lora": True, "lora_rank": 4, "weight_quantize_algo": "fp4", "weight_double_quant": True,
            "weight_double_quant_block_size": 8},
}  # fmt: skip
"""Adapters on codes."""
CORE = [("dora", "sp2"), ("vera", "tp2"), ("vera", "pp2"), ("oft", "tp2"), ("nf4", "pp2"), ("nf4", "sp2")]
CORE += [("adalora", "tp2"), ("prompt_tuning", "pp2"), ("prefix_tuning", "tp2"), ("reft", "sp2")]
ALL = [(m, layout) for m, one in ADAPTERS.items() for layout in NEEDS if set(NEEDS[layout]) <= set(one.splits)]
ALL += [(kind, layout) for kind in (*QUANTISED, "codes") for layout in ("tp2", "sp2", "pp2", "sep2", "stage3")]
CASES = ALL if os.environ.get("PADDLE_SFT_PARALLEL") else CORE
CHAIN = [("pissa", "sp2", "pp2"), ("dora", "pp2", "sp2"), ("vera", "sp2", "stage3"), ("adalora", "tp2", "pp2")]
CHAIN += [("adalora", "pp2", "sp2"), ("prefix_tuning", "pp2", "tp2"), ("nf4", "tp2", "pp2")]
"""Resumed at another layout: with arrays that are not parameters, that are not saved, that lie on the model, that the
method remembers; on codes."""
RELATIVE = 0.01
"""Of a moment, beside its tensor's largest number: a sum over ranks that is missing or counted twice makes 0.5 or 1."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = make_lab(tmp_path_factory.mktemp("adapters"), "qwen2")  # with biases, and a head that is the embedding
    patch = pytest.MonkeyPatch()
    codes = lab.runs.parent / "codes"
    if CASES is ALL:
        how = ("--weight_quantize_algo", "nf4", "--device", "cpu")
        here("paddle_sft.cli.quantize", lab.model, "--output_path", codes, *how).succeeded()
    of_codes = {**layouts.KINDS["lora"], "model_name_or_path": str(codes)}
    for method in dict.fromkeys(method for method, _ in CASES):
        patch.setitem(layouts.KINDS, method, of_codes if method == "codes" else keys_of(method))
        alone(lab.job(f"one-{method}", {}, 1, method))
    jobs = [lab.job(f"{method}-{name}", TWO[name], 2, method) for method, name in CASES]
    if CASES is ALL:
        jobs += [lab.resumed(f"{m}-{a}-to-{b}", f"{m}-{a}", TWO[b], 2, m) for m, a, b in CHAIN]
    launch(jobs, 2, lab.runs / "log")
    yield lab
    patch.undo()


def keys_of(method):
    """Of an argument file: a method of the catalogue, or of QUANTISED."""
    if method in QUANTISED:
        return QUANTISED[method]
    numbers = {"lora_rank": 4} if "lora_rank" in ADAPTERS[method].config.__dataclass_fields__ else {}
    return {"adapter": method, **numbers, **NUMBERS.get(method, {})}


RESUMED = [(method, f"{begin}-to-{end}") for method, begin, end in CHAIN] if CASES is ALL else []


@pytest.mark.parametrize("method, name", [*CASES, *RESUMED])
def test_an_adapter_in_a_split_model_equals_one_process(lab, method, name):
    one, other = lab.output(f"one-{method}"), lab.output(f"{method}-{name}")
    found = distances(one, other)
    assert max(found.values()) < TOLERANCE, found
    assert strays(one, other) == {}
    assert files(one) == files(other)
    assert (one / "adapter.json").read_bytes() == (other / "adapter.json").read_bytes()


def test_what_a_method_remembers_is_that_of_one_process(lab):
    assert ("adalora", "tp2") in CASES
    for layout in [layout for method, layout in CASES if method == "adalora"]:
        kept = [lab.output(name) / "checkpoint-2" / MEMORY for name in ("one-adalora", f"adalora-{layout}")]
        assert farthest(*kept) < TOLERANCE
        assert any("sensitivity" in name for name in TensorFile(kept[0]).specs)


def strays(one, other):
    """Moments that differ by more than rounding, beside their size: Adam's steps hide a gradient of wrong length."""
    first, second = (TensorFile(folder / "checkpoint-2/optimizer.safetensors") for folder in (one, other))
    names = [name for name in first.specs if "/moment" in name]
    assert names
    sizes = {name: np.abs(first.read(name)).max() for name in names}
    assert any(sizes.values())
    far = {name: np.abs(first.read(name) - second.read(name)).max() for name in names}
    return {name: far[name] / sizes[name] for name in names if far[name] > RELATIVE * sizes[name]}


SPLITS = {
    "tensor": Layout(tensor=2),
    "pipeline": Layout(pipeline=2),
    "sequence": Layout(tensor=2, sequence_parallel=True),
    "sep": Layout(sep=2),
    "stage3": Layout(sharding=2, stage=3),
}


@pytest.mark.parametrize("kind", SPLITS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_what_nobody_compared_is_refused_by_name_with_a_reason(method, kind):
    config, layout = tiny.config("qwen2", num_hidden_layers=4), SPLITS[kind]
    if kind in ADAPTERS[method].splits:
        require_layout(layout, config, SimpleNamespace(adapter=method))
        return
    why = ADAPTERS[method].why_not_split
    assert why
    with pytest.raises(ArgumentError, match=f"adapter {method} does not go with .*{KEYS[kind]}.*: {why}"):
        require_layout(layout, config, SimpleNamespace(adapter=method))
