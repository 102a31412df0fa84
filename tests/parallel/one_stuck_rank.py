"""A rank as `run_finetune.py FILE` starts it, of which the second never ends its fifth step: `make parallel`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from paddle_sft.cli.entry import leave, run
from paddle_sft.core.log import rank
from paddle_sft.train import trainer


def get_lost_in_thought() -> None:
    while True:
        time.sleep(0.01)


def main() -> int:
    one_step = trainer.SFTTrainer._forward_backward

    def step(self, number, data):
        if number == 4 and rank() == 1:
            get_lost_in_thought()
        return one_step(self, number, data)

    trainer.SFTTrainer._forward_backward = step
    return run("paddle_sft.cli.finetune", sys.argv[1:])


if __name__ == "__main__":
    leave(main())
