"""The paddle-sft command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import sys
from typing import Dict, List, NamedTuple, Optional

import paddle_sft
from paddle_sft.cli.entry import EXIT_USER_ERROR, run
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError


class Command(NamedTuple):
    """Where a command lives, and the line that --help shows."""

    module: str
    summary: str


COMMANDS: Dict[str, Command] = {
    "train": Command("paddle_sft.cli.finetune", "fine-tune or pre-train a model: train CONFIG.json [--key value ...]"),
    "merge": Command("paddle_sft.cli.merge", "write base + adapter as one complete model folder"),
    "quantize": Command("paddle_sft.cli.quantize", "store linear layers in 4 or 8 bits: quantize MODEL --output DIR"),
    "generate": Command("paddle_sft.cli.generate", "let a model, with or without an adapter, answer prompts"),
    "spectrum": Command("paddle_sft.cli.spectrum", "find the matrices with the most signal: spectrum MODEL --top 30"),
    "compare": Command("paddle_sft.cli.compare", "train with several methods: compare CONFIG --adapters lora,dora"),
    "combine": Command("paddle_sft.cli.combine", "make one adapter of several: combine A B --weights 0.7 0.3"),
    "export": Command("paddle_sft.cli.export", "write an adapter for PEFT, or read one of PEFT or PaddleNLP"),
    "data": Command("paddle_sft.cli.data", "check the data of a run, or show its samples: data check CONFIG.json"),
    "launch": Command("paddle_sft.cli.launch", "start several ranks: launch --gpus 0-7 run_finetune.py CONFIG.json"),
    "plan": Command("paddle_sft.cli.plan", "say what a run needs and how to split it: plan CONFIG --devices 8x80GB"),
    "explain": Command("paddle_sft.cli.explain", "say what an argument means: explain lora_rank"),
    "doctor": Command("paddle_sft.cli.doctor", "check this installation, or a model folder: doctor --model DIR"),
}


def usage() -> str:
    """What `paddle-sft --help` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = ["usage: paddle-sft COMMAND [ARGUMENTS ...]", ""]
    lines += [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "paddle-sft COMMAND --help says more; paddle-sft --version prints the version."]
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command and return its exit code: 0 done, 2 the user's input can't work, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else EXIT_USER_ERROR
    if argv[0] == "--version":
        print(f"paddle-sft {paddle_sft.__version__}")
        return 0
    try:
        command = choose("command", argv[0], COMMANDS)
    except ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return run(command.module, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
