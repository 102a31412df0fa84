"""run_finetune.py FILE, held at a gate: no step begins above the number in a file. `gated_run.py GATE FILE`.

So a test may kill or stop a run at a step that it knows, however slow or fast the machine is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from paddle_sft.cli.entry import leave, run


def open_gate(gate: Path, step: int) -> Path:
    """Let runs go on up to this step."""
    beside = gate.with_name(gate.name + ".beside")
    beside.write_text(str(step), encoding="utf-8")
    os.replace(beside, gate)
    return gate


def main(gate: str, *words: str) -> int:
    from paddle_sft.train import trainer

    one_step = trainer.SFTTrainer._forward_backward

    def step(self, number, data):
        while number + 1 > int(Path(gate).read_text(encoding="utf-8")):
            sum(range(10_000))
        return one_step(self, number, data)

    trainer.SFTTrainer._forward_backward = step
    return run("paddle_sft.cli.finetune", list(words))


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
