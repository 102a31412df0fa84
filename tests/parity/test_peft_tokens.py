"""Rows for single tokens travel between PEFT and this suite: trained ones, and those of a vocabulary that grew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import load_adapter, save_adapter
from paddle_sft.core.errors import ModelError
from paddle_sft.export.merge import MergeJob, merge
from paddle_sft.export.peft import write_adapter_folder, write_peft_folder
from paddle_sft.models.hub import load_model
from paddle_sft.models.trained_rows import train_rows
from paddle_sft.models.vocabulary import grow
from tests import tiny
from tests.parity import cases
from tests.parity.asking import Reference

TOLERANCE = 1e-5
SIZE = 384
Measured = Callable[[str, float, float], None]


class Case(NamedTuple):
    """A folder that PEFT makes."""

    settings: Dict[str, Any]
    family: str = "llama"
    vocab_size: Optional[int] = None
    kind: str = "LoraConfig"


LORA = dict(r=4, target_modules=["q_proj", "v_proj"])
BOTH = {"embed_tokens": [384, 385], "lm_head": [384, 385]}

CASES: Dict[str, Case] = {
    "embedding-only": Case(dict(**LORA, trainable_token_indices=[9, 8])),
    "both": Case(dict(**LORA, trainable_token_indices={"model.embed_tokens": [8, 9], "lm_head": [9, 8]})),
    "tied": Case(dict(**LORA, trainable_token_indices=[8, 9, 10]), "qwen2-tied"),
    "adalora": Case(
        dict(init_r=4, target_r=4, total_step=9, target_modules=["q_proj"], trainable_token_indices=[5]),
        "llama", None, "AdaLoraConfig",
    ),
    "gpt2": Case(
        dict(r=4, target_modules=["c_attn"], fan_in_fan_out=True, trainable_token_indices=[300, 301]), "gpt2"
    ),
    "grown": Case(dict(**LORA, trainable_token_indices=[384, 385]), "llama", 386),
    "grown-both": Case(dict(**LORA, trainable_token_indices=BOTH), "llama", 386),
    "grown-tied": Case(dict(**LORA, trainable_token_indices=[385, 384]), "qwen2-tied", 386),
    "grown-some": Case(dict(**LORA, trainable_token_indices=[380, 385]), "llama", 400),
    "grown-untrained": Case(dict(**LORA), "llama", 386),
    "grown-whole": Case(dict(**LORA, modules_to_save=["embed_tokens", "lm_head"]), "llama", 386),
    "grown-head-whole": Case(
        dict(**LORA, modules_to_save=["lm_head"], trainable_token_indices=[384, 385]), "llama", 386
    ),
}  # fmt: skip


def ids_of(case: Case) -> np.ndarray:
    """Texts with the tokens in them."""
    ids = cases.input_ids(seed=7)
    given = case.settings.get("trainable_token_indices") or [384, 385]
    tokens = sorted({one for some in given.values() for one in some} if isinstance(given, dict) else given)
    ids[:, 5 : 5 + len(tokens)] = tokens
    return ids


@pytest.fixture(scope="module", params=CASES)
def theirs(
    request: pytest.FixtureRequest, reference: Reference, bases: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Tuple[str, Path, Path, np.ndarray]:
    """(case, base, PEFT's folder, PEFT's logits)."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    base = bases(case.family)
    reference.ask(
        "make_peft_folder", base=base, kind=case.kind, settings=case.settings, output=folder / "peft",
        input_ids=ids_of(case).tolist(), logits=folder / "logits", vocab_size=case.vocab_size,
    )  # fmt: skip
    return request.param, base, folder / "peft", load_file(str(folder / "logits"))["logits"]


def logits_with(base: Path, adapter: Path, ids: np.ndarray) -> np.ndarray:
    model = load_model(base, "float32").model
    load_adapter(model, adapter)
    return cases.our_logits(model, ids)


def test_rows_of_peft_compute_here_what_they_do_there(theirs: Tuple, measured: Measured, tmp_path: Path) -> None:
    """As they are, and merged into the base."""
    name, base, folder, expected = theirs
    ids = ids_of(CASES[name])
    old = np.minimum(ids, SIZE - 1)
    plain = cases.our_logits(load_model(base, "float32").model, old)
    assert np.abs(expected[..., :SIZE] - plain).max() > 0.05, "the adapter does nothing"
    found = logits_with(base, folder, ids)
    measured(f"tokens of PEFT here: {name}", np.abs(found - expected).max(), TOLERANCE)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    tiny.make_tokenizer(Path(shutil.copytree(base, tmp_path / "base")))
    merge(MergeJob(tmp_path / "base", folder, tmp_path / "merged"))
    merged = cases.our_logits(load_model(tmp_path / "merged", "float32").model, ids)
    np.testing.assert_allclose(merged, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_they_go_back_to_peft_and_compute_the_same(
    theirs: Tuple, reference: Reference, tmp_path: Path, measured: Measured
) -> None:
    name, base, folder, expected = theirs
    case = CASES[name]
    write_adapter_folder(base, folder, tmp_path / "ours")
    ids = ids_of(case)
    np.testing.assert_array_equal(logits_with(base, tmp_path / "ours", ids), logits_with(base, folder, ids))
    said = write_peft_folder(base, tmp_path / "ours", tmp_path / "peft", base_name=str(base))
    assert any(f"resize_token_embeddings({case.vocab_size})" in note for note in said) == bool(case.vocab_size)
    answer = reference.ask(
        "peft_folder_logits", base=base, folder=tmp_path / "peft", input_ids=ids.tolist(),
        logits=tmp_path / "logits", vocab_size=case.vocab_size,
    )  # fmt: skip
    assert not answer["warnings"]
    found = load_file(str(tmp_path / "logits"))["logits"]
    measured(f"tokens back in PEFT: {name}", np.abs(found - expected).max(), TOLERANCE)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    again = logits_with(base, tmp_path / "peft", ids)
    np.testing.assert_allclose(again, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["lora", "moslora", "adalora"])
@pytest.mark.parametrize("family", ["llama", "qwen2-tied"])
def test_new_tokens_that_were_trained_here_are_there_in_peft(
    method: str, family: str, reference: Reference, bases: Callable, tmp_path: Path, measured: Measured
) -> None:
    base = bases(family)
    model = load_model(base, "float32").model
    grow(model, SIZE, SIZE + 2)
    train_rows(model)
    config = attach(model, method, ADAPTERS[method].config(), ["q_proj", "down_proj"])
    random = np.random.default_rng(4)
    for parameter in model.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(parameter.numpy() + 0.1 * random.standard_normal(parameter.shape).astype("float32"))
    (tmp_path / "ours").mkdir()
    save_adapter(tmp_path / "ours", model, method, config)
    ids = cases.input_ids(seed=3)
    ids[:, 4:6] = [SIZE, SIZE + 1]
    expected = cases.our_logits(model, ids)
    write_peft_folder(base, tmp_path / "ours", tmp_path / "peft", base_name=str(base))
    reference.ask(
        "peft_folder_logits", base=base, folder=tmp_path / "peft", input_ids=ids.tolist(), logits=tmp_path / "logits",
        vocab_size=SIZE + 2,
    )  # fmt: skip
    found = load_file(str(tmp_path / "logits"))["logits"]
    measured(f"new tokens in PEFT: {method}, {family}", np.abs(found - expected).max(), TOLERANCE)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_tokens_with_others_between_them_are_refused(bases: Callable, reference: Reference, tmp_path: Path) -> None:
    base = bases("llama")
    reference.ask(
        "make_peft_folder", base=base, kind="LoraConfig", settings=dict(**LORA, trainable_token_indices=[7, 9]),
        output=tmp_path / "peft", input_ids=cases.input_ids().tolist(), logits=tmp_path / "logits",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"7, 9, of a base of 384.*next to each other.*merge_and_unload"):
        load_adapter(load_model(base, "float32").model, tmp_path / "peft")
