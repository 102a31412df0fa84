"""The methods on linear layers beside LoRA are PEFT's: their forward, ten steps of training, how layers are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.lokr.config import factors
from paddle_sft.adapters.state import adapter_tensors
from paddle_sft.models.hub import load_model
from paddle_sft.train.plan import row_order
from paddle_sft.train.weights import AdapterWeights
from tests import tiny
from tests.parity import cases
from tests.parity.asking import Reference

Measured = Callable[[str, float, float], None]
LOSS_TOLERANCE, LOGIT_TOLERANCE = 1e-4, 1e-5
NUM_STEPS, ROWS, SEED = 10, 2, 42
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FEED_FORWARD = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}


class Case(NamedTuple):
    method: str
    ours: Dict[str, Any]
    theirs: Dict[str, Any]
    learning_rate: float = 5e-3


CASES: Dict[str, Case] = {
    "vera": Case("vera", {"vera_rank": 6}, {"r": 6, "projection_prng_key": 5, "d_initial": 0.1}, 0.02),
    "lokr": Case("lokr", {"lokr_rank": 2, "lokr_alpha": 6.0}, {"r": 2, "alpha": 6}),
    "lokr-both": Case(
        "lokr", {"lokr_rank": 2, "lokr_alpha": 3.0, "lokr_factor": 6, "lokr_decompose_both": True},
        {"r": 2, "alpha": 3, "decompose_factor": 6, "decompose_both": True},
    ),
    "loha": Case("loha", {"loha_rank": 3, "loha_alpha": 6.0}, {"r": 3, "alpha": 6}),
    "adalora": Case(
        "adalora",
        {"adalora_init_r": 4, "adalora_target_r": 2, "adalora_alpha": 8.0, "adalora_tinit": 2, "adalora_tfinal": 3,
         "adalora_delta_t": 2},
        {"init_r": 4, "target_r": 2, "lora_alpha": 8, "tinit": 2, "tfinal": 3, "deltaT": 2, "total_step": NUM_STEPS},
        0.02,
    ),
    "ia3": Case("ia3", {}, {}, 0.02),
    "oft": Case("oft", {"oft_block_size": 16}, {"oft_block_size": 16, "r": 0}),
    "oft-exact": Case(
        "oft", {"oft_block_size": 8, "oft_neumann_terms": 0},
        {"oft_block_size": 8, "r": 0, "use_cayley_neumann": False},
    ),
}  # fmt: skip


def at_our_place(name: str, array: np.ndarray) -> Tuple[str, np.ndarray]:
    """PEFT's name and layout -> ours, written out here and not taken from the suite."""
    if name in ("vera_A", "vera_B"):
        return f"model.{name.lower()}", array.T
    path, kind = name.rsplit(".", 1)
    ours = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_E": "lora_e", "oft_R": "oft_r"}.get(kind, kind)
    ours = ours.replace("vera_lambda", "lambda")
    if kind == "oft_R":
        return f"llama.{path}.{ours}", array
    return f"llama.{path}.{ours}", array.reshape(-1) if kind in ("lora_E", "ia3_l") else array.T


def arrays_of(found: Dict[str, np.ndarray], begin: str) -> Dict[str, np.ndarray]:
    named = {name[len(begin) :]: array for name, array in found.items() if name.startswith(begin)}
    return dict(at_our_place(name, array) for name, array in named.items())


def fill(model: Any, arrays: Dict[str, np.ndarray]) -> None:
    tensors = adapter_tensors(model)
    assert sorted(tensors) == sorted(arrays)
    for name, tensor in tensors.items():
        tensor.set_value(arrays[name])


def batches(samples: List[Any]) -> List[Dict[str, List[List[int]]]]:
    """What each step of our run sees, as transformers takes it."""
    order, found = row_order(len(samples), SEED, 0, 0), []
    for step in range(NUM_STEPS):
        rows = [samples[number] for number in order[step * ROWS : (step + 1) * ROWS]]
        width = max(len(row.ids) for row in rows)
        fill_up = lambda values, row, filler: [int(v) for v in values] + [filler] * (width - len(row.ids))  # noqa: E731
        found.append({
            "input_ids": [fill_up(row.ids, row, 0) for row in rows],
            "labels": [fill_up(np.where(row.trained, row.ids, -100), row, -100) for row in rows],
            "attention_mask": [fill_up(np.ones(len(row.ids)), row, 0) for row in rows],
        })  # fmt: skip
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ten_steps_and_the_trained_forward_are_those_of_peft(
    case: Case, bases: Callable[..., Path], reference: Reference, tmp_path: Path, measured: Measured
) -> None:
    base = bases("llama", seed=11)
    samples = tiny.make_samples(NUM_STEPS * ROWS, seed=4, vocabulary=384)
    ids = cases.input_ids(rows=2, length=20)
    targets = FEED_FORWARD if case.method == "ia3" else {"target_modules": TARGETS}
    theirs = reference.ask(
        "train_adapter", folder=base, method=case.method, settings={**case.theirs, **targets}, steps=batches(samples),
        learning_rate=case.learning_rate, input_ids=ids.tolist(), output=tmp_path / "peft",
    )  # fmt: skip
    found = load_file(str(tmp_path / "peft"))
    model = load_model(base, "float32").model
    config = attach(model, case.method, ADAPTERS[case.method].config(**case.ours), None)
    fill(model, arrays_of(found, "start/"))
    trainer = tiny.make_trainer(
        model, tmp_path / "ours", samples, (), AdapterWeights(model, case.method, config, base), max_steps=NUM_STEPS,
        per_device_train_batch_size=ROWS, learning_rate=case.learning_rate, lr_scheduler_type="constant", seed=SEED,
        logging_strategy="steps", logging_steps=1, max_grad_norm=0.0, weight_decay=0.0,
    )  # fmt: skip
    trainer.train()
    ours = [entry["loss"] for entry in trainer.progress.log_history]
    away = np.abs(np.array(ours) - np.array(theirs["losses"])).max()
    measured(f"loss of a step: {case.method}", away, LOSS_TOLERANCE)
    assert len(ours) == NUM_STEPS and away < LOSS_TOLERANCE
    trained = {name: tensor.numpy() for name, tensor in adapter_tensors(model).items()}
    ends = arrays_of(found, "end/")
    for name, array in trained.items():
        np.testing.assert_allclose(
            array, ends[name], rtol=0, atol=2e-3 * max(1.0, np.abs(ends[name]).max()), err_msg=name
        )
        if name.endswith("lora_e"):
            np.testing.assert_array_equal(array == 0, ends[name] == 0, f"{name}: other ranks were cut")
    fill(model, ends)
    logits = found["logits"]
    away = np.abs(cases.our_logits(model, ids) - logits).max() / np.abs(logits).max()
    measured(f"logits, relative: {case.method} trained by PEFT", away, LOGIT_TOLERANCE)
    assert away < LOGIT_TOLERANCE
    base_logits = cases.our_logits(load_model(base, "float32").model, ids)
    assert np.abs(base_logits - logits).max() > 0.01, "PEFT learnt nothing: the comparison says nothing"


def test_lokr_cuts_every_size_as_peft_does(reference: Reference) -> None:
    sizes, given = [1, 2, 7, 12, 48, 60, 97, 128, 1000, 4864, 11008], [-1, 1, 2, 3, 5, 8, 16, 20, 100]
    theirs = reference.ask("lokr_factors", sizes=sizes, factors=given)
    assert [list(factors(size, factor)) for size in sizes for factor in given] == theirs
