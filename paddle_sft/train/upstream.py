"""The door to PaddleNLP's TrainingArguments and its loggers."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any, Sequence

from paddle_sft.arguments.load import Arguments
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.log import rank


def quieten() -> None:
    """PaddleNLP logs every file it touches; a user needs its warnings."""
    from paddlenlp.utils.log import logger

    logger.set_level("ERROR" if rank() else "WARNING")


LOGGER_PACKAGES = {"visualdl": "visualdl", "tensorboard": "tensorboardX", "wandb": "wandb"}


def require_loggers(names: Sequence[str]) -> None:
    """Refuse a logger whose package is missing before anything is loaded.

    Raises:
        ArgumentError: names the package and the command that installs it.
    """
    missing = [name for name in names if name in LOGGER_PACKAGES and find_spec(LOGGER_PACKAGES[name]) is None]
    if missing:
        packages = " ".join(LOGGER_PACKAGES[name] for name in missing)
        raise ArgumentError(
            f"report_to names {', '.join(missing)}, which is not installed; run: pip install {packages}"
        )


def training_arguments(arguments: Arguments, half_precision: str) -> Any:
    """PaddleNLP's TrainingArguments for this run.

    Args:
        half_precision: "bf16", "fp16" or "" as decided for the device (a CPU computes in float32 only).
    """
    from paddlenlp.trainer import TrainingArguments

    require_loggers(arguments.train.report_to)
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    ours = {
        key: value for key, value in dataclasses.asdict(arguments.train).items() if key in known and value is not None
    }
    values = {**ours, **arguments.upstream}
    values.update(
        # do_eval alone would make PaddleNLP evaluate every logging_steps; the evaluation at the end is ours
        do_eval=values.get("evaluation_strategy", "no") != "no",
        recompute=arguments.train.recompute and arguments.train.recompute_granularity == "full",  # parts: `RowLayout`
        bf16=half_precision == "bf16",
        fp16=half_precision == "fp16",
        report_to=[name for name in arguments.train.report_to if name != "none"],
        resume_from_checkpoint=None,
        use_async_save=False,  # ours is train/saver.py
        unified_checkpoint=False,  # ours are layout-independent by themselves
        disable_tqdm=True,  # our progress bar, not PaddleNLP's
    )
    return TrainingArguments(**values)
