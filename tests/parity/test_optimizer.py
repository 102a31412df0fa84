"""Optimizers and schedules step by step against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli.wiring import Run
from paddle_sft.train.adafactor import Adafactor
from tests import tiny
from tests.parity import cases
from tests.parity.asking import Reference
from tests.parity.vocabularies import make_llama_tokenizer

NUM_STEPS, WARMUP, RATE = 30, 5, 3e-3

SCHEDULES: Dict[str, Dict[str, Any]] = {
    "linear": {"lr_scheduler_type": "linear", "warmup_steps": WARMUP},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": WARMUP},
    "cosine, more waves": {"lr_scheduler_type": "cosine", "warmup_steps": WARMUP, "num_cycles": 1.5},
    "constant": {"lr_scheduler_type": "constant"},
    "constant_with_warmup": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": WARMUP},
    "polynomial": {"lr_scheduler_type": "polynomial", "warmup_steps": WARMUP, "lr_end": 1e-5, "power": 2.0},
}
_SPECIFIC = ("num_cycles", "lr_end", "power")


def gradients_of_five_steps() -> Dict[str, np.ndarray]:
    """A matrix and a vector, and gradients of very unequal size, some rows nearly zero."""
    random = np.random.default_rng(0)
    arrays = {"start/matrix": random.normal(size=(6, 5)), "start/vector": random.normal(size=7)}
    for step in range(5):
        sizes = 10.0 ** random.uniform(-4, 1, size=(6, 1))
        arrays[f"{step}/matrix"] = random.normal(size=(6, 5)) * sizes
        arrays[f"{step}/vector"] = random.normal(size=7) * 10.0 ** random.uniform(-4, 1)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def our_adafactor(arrays: Dict[str, np.ndarray], rate: float, weight_decay: float) -> Dict[str, np.ndarray]:
    parameters = {}
    for name in ("matrix", "vector"):
        start = arrays[f"start/{name}"]
        parameters[name] = paddle.create_parameter(list(start.shape), "float32")
        parameters[name].set_value(start)
    optimizer = Adafactor(rate, list(parameters.values()), weight_decay)
    found = {}
    for step in range(5):
        for name, parameter in parameters.items():
            parameter.grad = paddle.to_tensor(arrays[f"{step}/{name}"])
        optimizer.step()
        optimizer.clear_grad()
        found.update({f"{step}/{name}": parameter.numpy().copy() for name, parameter in parameters.items()})
    return found


def test_adafactor_makes_the_steps_of_transformers(reference: Reference, tmp_path: Path) -> None:
    arrays, rate, weight_decay = gradients_of_five_steps(), 1e-2, 0.1
    save_file(arrays, str(tmp_path / "gradients"))
    reference.ask(
        "adafactor", gradients=tmp_path / "gradients", rate=rate, weight_decay=weight_decay, output=tmp_path / "steps"
    )
    ours, theirs = our_adafactor(arrays, rate, weight_decay), load_file(str(tmp_path / "steps"))
    assert not cases.beyond(cases.distances(ours, theirs), 1e-6)


@pytest.fixture(scope="module")
def arguments(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    """Of a run of 30 steps over a tiny model."""
    folder = tmp_path_factory.mktemp("schedules")
    make_llama_tokenizer(cases.make_base(reference, folder / "base", "llama"))
    tiny.make_data(folder / "data", 4, 2)
    given = {
        "model_name_or_path": folder / "base", "dataset_name_or_path": folder / "data", "do_train": "true",
        "max_steps": NUM_STEPS, "per_device_train_batch_size": 2, "learning_rate": RATE, "logging_steps": 1,
        "save_strategy": "no", "disable_tqdm": "true", "device": "cpu",
    }  # fmt: skip
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_has_the_learning_rates_of_transformers(
    name: str, arguments: List[str], reference: Reference, tmp_path: Path
) -> None:
    schedule = SCHEDULES[name]
    extra = [text for key, value in schedule.items() for text in (f"--{key}", str(value))]
    run = Run(load_finetune_arguments([*arguments, *extra, "--output_dir", str(tmp_path)]))
    run.trainer.train()
    ours = [entry["learning_rate"] for entry in run.trainer.progress.log_history if "learning_rate" in entry]
    theirs = reference.ask(
        "learning_rates",
        name=schedule["lr_scheduler_type"],
        rate=RATE,
        num_warmup_steps=schedule.get("warmup_steps", 0),
        num_steps=NUM_STEPS,
        specific={key: schedule[key] for key in _SPECIFIC if key in schedule},
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)
