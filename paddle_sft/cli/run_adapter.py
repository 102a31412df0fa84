"""What a run trains: an adapter of the method that was asked for, one that was trained before, or every weight."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Optional

import paddle

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import load_adapter
from paddle_sft.arguments.adapter import AdapterArguments
from paddle_sft.cli.report import Report
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError
from paddle_sft.train.weights import AdapterWeights


def train_adapter(
    network: Any, arguments: AdapterArguments, start: Optional[Path], seed: int, tokenizer_folder: Path, report: Report
) -> AdapterWeights:
    """Put the adapter into the model, in place, and say so in the plan.

    Args:
        start: the adapter folder to start from, None for a fresh adapter.
        seed: the adapter's first values are drawn from it.

    Raises:
        ArgumentError: a folder of another method than the one asked for.
    """
    if start is not None:
        saved = load_adapter(network, start)
        if saved.method != arguments.adapter:
            raise ArgumentError(
                f"lora_path {start} is an adapter of method {saved.method}, and adapter is {arguments.adapter}; write "
                f'"adapter": "{saved.method}", or name another folder'
            )
        report.section("adapter", {saved.method: (str(saved.folder), "its own numbers and targets hold")})
        return AdapterWeights(network, saved.method, saved.config, tokenizer_folder)
    method = arguments.adapter
    paddle.seed(seed)
    config = attach(network, method, adapter_config(arguments), arguments.lora_target_modules)
    numbers = {key: value for key, value in asdict(config).items() if key != "target_modules"}
    lines = {method: (", ".join(f"{key} {value}" for key, value in numbers.items()), "")}
    if config.target_modules:
        names = dict.fromkeys(path.rsplit(".", 1)[-1] for path in config.target_modules)
        lines["targets"] = (f"{len(config.target_modules)} layers: {', '.join(names)}", "")
    report.section("adapter", lines)
    return AdapterWeights(network, method, config, tokenizer_folder)


def adapter_config(arguments: AdapterArguments) -> Any:
    """The method's config: its fields have the names of the arguments."""
    config = choose("adapter", arguments.adapter, ADAPTERS).config
    given = {field.name: getattr(arguments, field.name, None) for field in fields(config)}
    return config(**{name: value for name, value in given.items() if value is not None})
