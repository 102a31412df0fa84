"""Adapter folders travel between PEFT and this suite: what PEFT computes with one is what we compute, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.peft.catalogue import PROMPTS, READ
from paddle_sft.adapters.state import load_adapter
from paddle_sft.export.peft import write_adapter_folder, write_peft_folder
from paddle_sft.models.hub import load_model
from tests.parity import cases
from tests.parity.asking import Reference

TOLERANCE = 1e-5
Measured = Callable[[str, float, float], None]


class Case(NamedTuple):
    """A folder that PEFT makes."""

    kind: str
    settings: Dict[str, Any]
    family: str = "llama"


LINEAR = ["q_proj", "v_proj", "down_proj"]

CASES: Dict[str, Case] = {
    "lora": Case("LoraConfig", dict(r=4, lora_alpha=12, target_modules="all-linear")),
    "rslora": Case("LoraConfig", dict(r=4, lora_alpha=6, use_rslora=True, target_modules=LINEAR)),
    "patterns": Case(
        "LoraConfig",
        dict(
            r=4, lora_alpha=8, target_modules="all-linear", rank_pattern={"layers.0.mlp.up_proj": 2, "o_proj": 3},
            alpha_pattern={"down_proj": 5, "^model.layers.1.self_attn.q_proj": 20},
        ),
    ),
    "gpt2": Case("LoraConfig", dict(r=4, target_modules=["c_attn", "c_fc", "mlp.c_proj"], fan_in_fan_out=True), "gpt2"),
    "bloom": Case("LoraConfig", dict(r=4, target_modules="all-linear"), "bloom"),
    "opt": Case("LoraConfig", dict(r=4, target_modules=["fc1", "out_proj", "k_proj"]), "opt"),
    "phi3": Case("LoraConfig", dict(r=4, target_modules="all-linear"), "phi3"),
    "qwen3": Case("LoraConfig", dict(r=4, target_modules="all-linear"), "qwen3"),
    "dora": Case("LoraConfig", dict(r=4, use_dora=True, target_modules="all-linear")),
    "dora-gpt2": Case(
        "LoraConfig", dict(r=4, use_dora=True, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True), "gpt2"
    ),
    "adalora": Case("AdaLoraConfig", dict(init_r=6, target_r=4, total_step=10, lora_alpha=9, target_modules=LINEAR)),
    "vera": Case("VeraConfig", dict(r=5, target_modules=["q_proj", "up_proj", "down_proj"])),
    "vera-gpt2": Case("VeraConfig", dict(r=5, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True), "gpt2"),
    "lokr": Case("LoKrConfig", dict(r=3, alpha=5, target_modules=["q_proj", "k_proj", "up_proj"])),
    "lokr-both": Case(
        "LoKrConfig", dict(r=2, alpha=5, decompose_both=True, decompose_factor=6, target_modules="all-linear")
    ),
    "loha": Case("LoHaConfig", dict(r=3, alpha=5, target_modules="all-linear")),
    "ia3": Case(
        "IA3Config", dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    ),
    "ia3-bias": Case(
        "IA3Config", dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]), "qwen2"
    ),
    "oft": Case("OFTConfig", dict(oft_block_size=8, target_modules="all-linear")),
    "oft-exact": Case("OFTConfig", dict(oft_block_size=16, use_cayley_neumann=False, target_modules=LINEAR)),
    "prompt": Case("PromptTuningConfig", dict(num_virtual_tokens=5)),
    "p-tuning": Case("PromptEncoderConfig", dict(num_virtual_tokens=5, encoder_hidden_size=8)),
    "p-tuning-lstm": Case(
        "PromptEncoderConfig",
        dict(num_virtual_tokens=4, encoder_hidden_size=8, encoder_reparameterization_type="LSTM"),
    ),
    "prefix": Case("PrefixTuningConfig", dict(num_virtual_tokens=5)),
    "prefix-mlp": Case("PrefixTuningConfig", dict(num_virtual_tokens=5, prefix_projection=True), "qwen2"),
    "embedding": Case(
        "LoraConfig", dict(r=4, target_modules=["embed_tokens", "q_proj"], modules_to_save=["lm_head"])
    ),
    "norms": Case("LoraConfig", dict(r=4, target_modules=["v_proj"], modules_to_save=["norm", "up_proj"])),
    "gemma2": Case("LoraConfig", dict(r=4, target_modules="all-linear"), "gemma2"),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def theirs(
    request: pytest.FixtureRequest, reference: Reference, bases: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Tuple[str, Path, Path, np.ndarray]:
    """(case, base, PEFT's folder, PEFT's logits)."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    base = bases(case.family)
    reference.ask(
        "make_peft_folder", base=base, kind=case.kind, settings=case.settings, output=folder / "peft",
        input_ids=cases.input_ids(seed=7).tolist(), logits=folder / "logits",
    )  # fmt: skip
    return request.param, base, folder / "peft", logits_of_text(folder / "logits")


def logits_of_text(file: Path) -> np.ndarray:
    """[B, T, V] without the virtual tokens, for which PEFT gives logits, too."""
    return load_file(str(file))["logits"][:, -cases.input_ids().shape[1] :]


def our_logits(base: Path, adapter: Path) -> np.ndarray:
    model = load_model(base, "float32").model
    load_adapter(model, adapter)
    return cases.our_logits(model, cases.input_ids(seed=7))


def test_a_folder_of_peft_computes_here_what_it_does_there(theirs: Tuple, measured: Measured) -> None:
    name, base, folder, expected = theirs
    plain = cases.our_logits(load_model(base, "float32").model, cases.input_ids(seed=7))
    assert np.abs(expected - plain).max() > 0.05, "the adapter does nothing"
    found = our_logits(base, folder)
    measured(f"PEFT's folder here: {name}", np.abs(found - expected).max(), TOLERANCE)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_it_goes_back_to_peft_and_computes_the_same(
    theirs: Tuple, reference: Reference, tmp_path: Path, measured: Measured
) -> None:
    """PEFT -> ours -> PEFT: weights bit for bit, logits too."""
    name, base, folder, expected = theirs
    write_adapter_folder(base, folder, tmp_path / "ours")
    np.testing.assert_array_equal(our_logits(base, tmp_path / "ours"), our_logits(base, folder))
    write_peft_folder(base, tmp_path / "ours", tmp_path / "peft", base_name=str(base))
    before = load_file(str(folder / "adapter_model.safetensors"))
    before = {key: array for key, array in before.items() if ".base_layer." not in key}  # the base's own embedding
    after = load_file(str(tmp_path / "peft" / "adapter_model.safetensors"))
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array, key)
    answer = reference.ask(
        "peft_folder_logits", base=base, folder=tmp_path / "peft", input_ids=cases.input_ids(seed=7).tolist(),
        logits=tmp_path / "logits",
    )  # fmt: skip
    assert not answer["warnings"]
    found = logits_of_text(tmp_path / "logits")
    measured(f"back in PEFT: {name}", np.abs(found - expected).max(), TOLERANCE)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_every_method_that_is_read_has_a_case() -> None:
    made = {CASES[name].kind.replace("Config", "").replace("PromptEncoder", "PTuning").upper() for name in CASES}
    assert {kind.replace("_", "") for kind in (*READ, *PROMPTS)} <= made
