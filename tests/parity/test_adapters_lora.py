"""LoRA and its relatives are PEFT's: their start, ten steps of training, and the forward of what PEFT has trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import adapter_tensors
from paddle_sft.adapters.whole import train_whole
from paddle_sft.models.hub import load_model
from paddle_sft.models.trained_rows import train_rows
from paddle_sft.models.vocabulary import grow
from paddle_sft.train.weights import AdapterWeights
from tests import tiny
from tests.parity import cases
from tests.parity.asking import Reference
from tests.parity.test_adapters_linear import NUM_STEPS, ROWS, SEED, TARGETS, batches

LOSS_TOLERANCE, LOGIT_TOLERANCE = 1e-4, 1e-5
RANK, ALPHA, VOCABULARY, FIRST_NEW = 4, 12.0, 384, 380
Arrays = Dict[str, np.ndarray]
Measured = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Case:
    method: str = "lora"
    ours: Dict[str, Any] = field(default_factory=dict)
    theirs: Dict[str, Any] = field(default_factory=dict)
    targets: List[str] = field(default_factory=lambda: TARGETS)
    whole: List[str] = field(default_factory=list)
    job: Dict[str, Any] = field(default_factory=dict)


CASES: Dict[str, Case] = {
    "lora": Case(),
    "rslora": Case(ours={"rslora": True}, theirs={"use_rslora": True}),
    "patterns": Case(
        ours={"rank_pattern": {"down_proj": 2, "llama.layers.1.mlp.up_proj": 6}, "alpha_pattern": {"o_proj": 5.0}},
        theirs={"rank_pattern": {"down_proj": 2, "layers.1.mlp.up_proj": 6}, "alpha_pattern": {"o_proj": 5.0}},
    ),
    "lora_plus": Case(ours={"lora_plus_scale": 8.0}, job={"plus": 8.0}),
    "lora_fa": Case("lora_fa", job={"frozen_a": True}),
    "dora": Case("dora", theirs={"use_dora": True}),
    "dora-rslora": Case("dora", ours={"rslora": True}, theirs={"use_dora": True, "use_rslora": True}),
    "pissa": Case("pissa", theirs={"init_lora_weights": "pissa"}),
    "pissa-fast": Case("pissa", ours={"pissa_niter": 8}, theirs={"init_lora_weights": "pissa_niter_8"}),
    "olora": Case("olora", theirs={"init_lora_weights": "olora"}),
    "embedding": Case(targets=["q_proj", "embed_tokens"]),
    "modules_to_save": Case(  # "norm" would be every ...layernorm there
        theirs={"modules_to_save": ["lm_head", "embed_tokens", "model.norm"]},
        whole=["lm_head", "embed_tokens", "norm"],
    ),
    "new_tokens": Case(
        theirs={"trainable_token_indices": {name: [380, 381, 382, 383] for name in ("embed_tokens", "lm_head")}}
    ),
}  # fmt: skip


def at_our_place(name: str, array: np.ndarray) -> Any:
    """PEFT's name and layout -> ours, written out here and not taken from the suite."""
    path, kind = name.removeprefix("model.").rsplit(".", 1)
    if kind == "modules_to_save":
        path = "lm_head" if path == "lm_head" else f"llama.{path}"
        return f"{path}.weight", array.T if path == "lm_head" else array
    if kind == "trainable_tokens_delta":
        return "rows.head" if path.startswith("lm_head") else "rows.embedding", array
    kind = {"lora_magnitude_vector": "magnitude"}.get(kind, kind.replace("embedding_", "").lower())
    return f"llama.{path}.{kind}", array.T


def arrays_of(found: Arrays, begin: str) -> Arrays:
    named = {name[len(begin) :]: array for name, array in found.items() if name.startswith(begin)}
    return dict(at_our_place(name, array) for name, array in named.items())


def tensors_of(model: Any) -> Dict[str, Any]:
    rows = getattr(model, "trained_rows", None)
    return {**adapter_tensors(model), **({"rows.embedding": rows.embedding, "rows.head": rows.head} if rows else {})}


def fill(model: Any, arrays: Arrays, starts: Arrays) -> None:
    """`starts`: what PEFT has taken out of its base, where the method starts from the base's own weights."""
    for name, tensor in tensors_of(model).items():
        source = starts if ".start_" in name else arrays
        tensor.set_value(source[name.replace(".start_", ".lora_")])


def prepared(case: Case, base: Path) -> Any:
    model = load_model(base, "float32").model
    if "trainable_token_indices" in case.theirs:
        grow(model, FIRST_NEW, VOCABULARY)
        train_rows(model)
    train_whole(model, case.whole)
    return model


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_start_and_ten_steps_and_the_trained_forward_are_those_of_peft(
    case: Case, bases: Callable[..., Path], reference: Reference, tmp_path: Path, measured: Measured
) -> None:
    base = bases("llama", seed=11)
    model = prepared(case, base)
    job = dict(case.job)
    if hasattr(model, "trained_rows"):
        rows = {"embedding": model.trained_rows.embedding.numpy(), "head": model.trained_rows.head.numpy()}
        save_file(rows, str(tmp_path / "rows"))
        job["rows"] = {"first": FIRST_NEW, "file": str(tmp_path / "rows")}
    samples = tiny.make_samples(NUM_STEPS * ROWS, seed=4, vocabulary=VOCABULARY)
    ids = cases.input_ids(rows=2, length=20)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": case.targets, **case.theirs}
    theirs = reference.ask(
        "train_lora", folder=base, settings=settings, steps=batches(samples), learning_rate=5e-3,
        input_ids=ids.tolist(), output=tmp_path / "peft", ways=job,
    )  # fmt: skip
    found = load_file(str(tmp_path / "peft"))
    starts, ends = arrays_of(found, "start/"), arrays_of(found, "end/")
    config = ADAPTERS[case.method].config(lora_rank=RANK, lora_alpha=ALPHA, **case.ours)
    config = attach(model, case.method, config, case.targets)
    if "pissa_niter" not in case.ours:  # another random matrix gives another approximation
        require_same_start(model, starts)
    fill(model, starts, starts)
    trainer = tiny.make_trainer(
        model, tmp_path / "ours", samples, (), AdapterWeights(model, case.method, config, base), max_steps=NUM_STEPS,
        per_device_train_batch_size=ROWS, learning_rate=5e-3, lr_scheduler_type="constant", seed=SEED,
        logging_strategy="steps", logging_steps=1, max_grad_norm=0.0, weight_decay=0.0,
    )  # fmt: skip
    trainer.train()
    ours = [entry["loss"] for entry in trainer.progress.log_history]
    away = np.abs(np.array(ours) - np.array(theirs)).max()
    measured(f"loss of a step: {request_name(case)}", away, LOSS_TOLERANCE)
    assert len(ours) == NUM_STEPS and away < LOSS_TOLERANCE
    fill(model, ends, starts)
    away = np.abs(cases.our_logits(model, ids) - found["logits"]).max() / np.abs(found["logits"]).max()
    measured(f"logits, relative: {request_name(case)} trained by PEFT", away, LOGIT_TOLERANCE)
    assert away < LOGIT_TOLERANCE
    plain = cases.our_logits(load_model(base, "float32").model, ids)
    assert np.abs(plain - found["logits"]).max() > 0.01, "PEFT learnt nothing: the comparison says nothing"


def request_name(case: Case) -> str:
    return next(name for name, one in CASES.items() if one is case)


def require_same_start(model: Any, starts: Arrays) -> None:
    """What a method takes from the base's weights is what PEFT takes; singular vectors up to their signs."""
    for name, tensor in tensors_of(model).items():
        if name.endswith((".magnitude", ".weight")) or name.startswith("rows."):
            np.testing.assert_allclose(tensor.numpy(), starts[name], rtol=1e-5, atol=1e-6, err_msg=name)
        if name.endswith(".start_a"):
            layer = name.rsplit(".", 1)[0]
            ours = tensor.numpy() @ tensors_of(model)[f"{layer}.start_b"].numpy()
            product = starts[f"{layer}.lora_a"] @ starts[f"{layer}.lora_b"]
            np.testing.assert_allclose(ours, product, rtol=0, atol=2e-3 * np.abs(product).max(), err_msg=layer)
