"""The same fine-tuning run twice: by this project's commands, and by transformers' Trainer (with PEFT)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from safetensors.numpy import load_file

from paddle_sft.train.plan import StepShape, row_order
from tests import tiny
from tests.parity import cases
from tests.parity.asking import Reference
from tests.parity.vocabularies import TOKENIZERS

ROOT = Path(__file__).parents[2]
NUM_STEPS, ROWS, ACCUMULATION, SEED = 20, 2, 2, 7
RANK, ALPHA = 4, 8.0
NUM_SAMPLES = {"llama": 15, "qwen2": 13}
"""The last step of an epoch holds 3 samples in two passes, and 1 sample in one, instead of 4."""

SCHEDULES: Dict[str, Dict[str, Any]] = {
    "llama": {"lr_scheduler_type": "cosine", "warmup_steps": 3},
    "qwen2": {"lr_scheduler_type": "linear", "warmup_steps": 3},
}
_SHARED = {
    "per_device_train_batch_size": ROWS,
    "gradient_accumulation_steps": ACCUMULATION,
    "max_steps": NUM_STEPS,
    "weight_decay": 0.1,  # large enough that decaying one tensor too many shows: 20 steps take 5e-4 of it
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "seed": SEED,
}
"""What both sides spell alike and take the same."""


@dataclass(frozen=True)
class Pair:
    """Both runs, finished."""

    family: str
    base: Path
    output_dir: Path
    """Ours."""
    theirs: Dict[str, Any]
    """What reference/training.py's train returned."""
    their_arrays: Dict[str, np.ndarray]

    name: str
    """For reports."""

    def history(self) -> List[Dict[str, float]]:
        return read_json(self.output_dir / "trainer_state.json")["log_history"]


def run_both(
    reference: Reference, folder: Path, family: str, lora: bool = False, optim: str = "adamw", **changes: Any
) -> Pair:
    """Fine-tune a tiny model of the family for 20 steps on both sides."""
    base = cases.make_base(reference, folder / "base", cases.TRAINED_SHAPES[family], seed=11)
    TOKENIZERS[family](base)
    train_rows, dev_rows = tiny.rows(NUM_SAMPLES[family], 1, longest=14), tiny.rows(7, 2, longest=14)
    tiny.write_lines(folder / "data" / "train.json", train_rows)
    tiny.write_lines(folder / "data" / "dev.json", dev_rows)
    settings = {**_SHARED, **SCHEDULES[family], **changes}
    output_dir = run_ours(folder, base, {**settings, "optim": optim}, lora)
    theirs = reference.ask(
        "train",
        folder=base,
        train_rows=train_rows,
        dev_rows=dev_rows,
        epochs=epochs_of_plan(len(train_rows)),
        settings={**settings, "optim": {"adamw": "adamw_torch"}.get(optim, optim)},
        output=folder / "theirs.safetensors",
        adapter=start_of_adapter(output_dir, family) if lora else None,
    )
    arrays = load_file(str(folder / "theirs.safetensors"))
    return Pair(family, base, output_dir, theirs, arrays, f"{family} {'lora' if lora else 'full'} {optim}")


def run_ours(folder: Path, base: Path, settings: Dict[str, Any], lora: bool) -> Path:
    """python run_finetune.py; returns output_dir."""
    arguments = {
        **settings,
        "model_name_or_path": str(base),
        "dataset_name_or_path": str(folder / "data"),
        "output_dir": str(folder / "ours"),
        "do_train": True,
        "do_eval": True,
        "eval_at_start": True,
        "per_device_eval_batch_size": 3,
        "device": "cpu",
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    if lora:
        arguments.update(
            lora=True, lora_rank=RANK, lora_alpha=ALPHA, lora_dropout=0.0, lora_target_modules="all-linear",
            save_strategy="steps", save_steps=1, save_total_limit=NUM_STEPS,
        )  # fmt: skip
    (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    run_command("run_finetune.py", str(folder / "arguments.json"))
    return folder / "ours"


def run_command(script: str, *arguments: str) -> str:
    """A user's command in a process of its own; its output. Raises AssertionError with that output when it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def epochs_of_plan(num_samples: int) -> List[List[int]]:
    """The order in which our run sees the samples, epoch by epoch."""
    num_epochs = -(-NUM_STEPS // StepShape(ROWS, ACCUMULATION, 1).num_steps(num_samples))
    return [row_order(num_samples, SEED, 0, epoch).tolist() for epoch in range(num_epochs)]


def start_of_adapter(output_dir: Path, family: str) -> Dict[str, Any]:
    """The adapter as our run began: warm-up starts at rate 0, so the first step changed nothing."""
    file = output_dir / "checkpoint-1" / "adapter.safetensors"
    arrays = load_file(str(file))
    assert all(not array.any() for name, array in arrays.items() if name.endswith("lora_b")), "the first step changed B"
    return adapter_at(file, family)


def adapter_at(file: Path, family: str) -> Dict[str, Any]:
    """An adapter file of ours as the reference's jobs take it."""
    return {"file": str(file), "family": family, "rank": RANK, "alpha": ALPHA}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
