"""Run argument files one after the other and keep what each step saw: its loss and every gradient, before the update.

As a script, the words are argument files; started by paddle's launcher they are runs of several ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def run(file: Path) -> None:
    """Train, and write gradients.npz, with names STEP/PARAMETER and STEP/loss, into the run's output_dir (rank 0)."""
    from paddle_sft.arguments.load import load_finetune_arguments
    from paddle_sft.cli.wiring import Run
    from paddle_sft.core.log import rank
    from paddle_sft.train.trainer import SFTTrainer

    found = {}
    update = SFTTrainer._update

    def watch(self: Any) -> None:
        step = self.progress.global_step
        for name, parameter in self.trainable.items():
            if parameter.grad is not None:
                found[f"{step}/{name}"] = parameter.grad.numpy().copy()
        update(self)

    SFTTrainer._update = watch
    try:
        arguments = load_finetune_arguments([str(file)])
        made = Run(arguments)
        if file.stem.startswith("spoilt"):
            _spoil(made, rank())
        made.train()
    finally:
        SFTTrainer._update = update
    for entry in made.trainer.progress.log_history:
        if "loss" in entry:
            found[f"{entry['step']}/loss"] = np.float64(entry["loss"])
    found["skipped"] = np.int64(made.trainer.progress.skipped_steps)
    if rank() == 0:
        np.savez(Path(arguments.train.output_dir) / "gradients.npz", **found)


def _spoil(made: Any, rank: int) -> None:
    """The second forward pass of rank 1 gives NaN."""
    seen = []

    def hook(layer: Any, inputs: Any, output: Any) -> Any:
        seen.append(1)
        return output * float("nan") if rank == 1 and len(seen) == 2 else output

    model = made.loaded.model
    getattr(model, model.base_model_prefix).norm.register_forward_post_hook(hook)


if __name__ == "__main__":
    for word in sys.argv[1:]:
        run(Path(word))
