"""A checkpoint that another run left is refused, whatever was changed since, and nothing of it is touched."""

from __future__ import annotations

import re

import pytest

from paddle_sft.core.tensorfile import TensorFile
from tests.e2e.commands import TRAIN, checkpoints, here

NF4 = dict(weight_quantize_algo="nf4")
FULL = dict(lora=None)
OTHER_WEIGHTS = "was trained on another base than that of this run: the shapes are the same, the weights are not"


@pytest.mark.parametrize(
    "before, base, after, words",
    [
        ({}, dict(seed=5), {}, OTHER_WEIGHTS),
        ({}, dict(hidden_size=48), {}, r"self_attn.q_proj is \[48, 48\], the adapter was trained on \[32, 32\]"),
        (FULL, dict(hidden_size=48), FULL, r"is \[96, 32\] there and \[96, 48\] here; restore model_name_or_path"),
        (NF4, dict(seed=5), NF4, OTHER_WEIGHTS),
        (NF4, {}, {}, "quantised was 'nf4, blocks of 64: 14 layers', now None"),
        ({}, {}, NF4, "quantised was None, now 'nf4, blocks of 64: 14 layers'"),
        ({**FULL, "qat": "a8w8"}, {}, FULL, "qat was 'a8w8', now None"),
    ],
    ids=["base", "shapes", "shapes-full", "base-nf4", "no-longer-nf4", "now-nf4", "no-longer-qat"],
)
def test_a_run_goes_on_with_its_own_base_and_keys_only(lab, model_folder, tmp_path, before, base, after, words):
    out = tmp_path / "out"
    here(TRAIN, lab.write(out, max_steps=2, save_steps=2, **before)).succeeded()
    changed = {"model_name_or_path": str(model_folder("llama", **base))} if base else {}
    weights = next((out / "checkpoint-2").glob("[am]*.safetensors"))
    content = {name: TensorFile(weights).read(name).copy() for name in TensorFile(weights).specs}
    outcome = here(TRAIN, lab.write(out, max_steps=4, save_steps=2, **after, **changed))
    assert re.search(words, outcome.refused().err), outcome.err
    assert checkpoints(out) == [2]
    assert all((TensorFile(weights).read(name) == array).all() for name, array in content.items())
