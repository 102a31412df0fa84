"""What a run trains: an adapter of the method that was asked for, one that was trained before, or every weight."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, List, Optional

import paddle

from paddle_sft.adapters.attach import attach, base_layers
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import load_adapter, read_if_own
from paddle_sft.adapters.whole import train_whole
from paddle_sft.arguments.adapter import AdapterArguments
from paddle_sft.cli.report import Report
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.linears import features
from paddle_sft.models.tokenizers import load_tokenizer
from paddle_sft.models.trained_rows import train_rows
from paddle_sft.train.weights import AdapterWeights


def train_adapter(
    network: Any, arguments: AdapterArguments, start: Optional[Path], seed: int, tokenizer_folder: Path, report: Report
) -> AdapterWeights:
    """Put the adapter into the model, in place, and say so in the plan.

    Args:
        start: the adapter folder to start from, None for a fresh adapter.
        seed: the adapter's first values are drawn from it.

    Raises:
        ArgumentError: a folder of another method than the one asked for, or of another program with tokens of its own.
    """
    if start is not None:
        saved = load_adapter(network, start, allow_other_base=arguments.allow_other_base)
        if saved.method != arguments.adapter:
            raise ArgumentError(
                f"lora_path {start} is an adapter of method {saved.method}, and adapter is {arguments.adapter}; write "
                f'"adapter": "{saved.method}", or name another folder'
            )
        rows = saved.new_rows
        if rows is not None and rows.vocab_size > rows.base_size and read_if_own(start) is None:
            raise ArgumentError(
                f"lora_path {start} is an adapter of another program with tokens that the base has not; make a folder "
                f"of this suite of it first (paddle-sft export --format paddle_sft --lora_path {start} ...), and name "
                "that one"
            )
        report.section("adapter", {saved.method: (str(saved.folder), "its own numbers and targets hold")})
        return AdapterWeights(network, saved.method, saved.config, tokenizer_folder)
    method = arguments.adapter
    paddle.seed(seed)
    whole = _train_whole(network, arguments)
    chosen = with_text(adapter_config(arguments), tokenizer_folder)
    config = attach(network, method, chosen, arguments.lora_target_modules)
    told = {key: value for key, value in asdict(config).items() if key != "target_modules"}
    numbers = {key: value for key, value in told.items() if value not in ({}, None, False)}
    lines = {method: (", ".join(f"{key} {value}" for key, value in numbers.items()), "")}
    if config.target_modules:
        layers = base_layers(network)
        lines.update(config.remarks({path: features(layers[path]) for path in config.target_modules}))
        names = dict.fromkeys(path.rsplit(".", 1)[-1] for path in config.target_modules)
        lines["targets"] = (f"{len(config.target_modules)} layers: {', '.join(names)}", "")
    if whole:
        lines["trained whole"] = (", ".join(whole), "lora_modules_to_save")
    report.section("adapter", lines)
    return AdapterWeights(network, method, config, tokenizer_folder)


def _train_whole(network: Any, arguments: AdapterArguments) -> List[str]:
    names = arguments.lora_modules_to_save or []
    whole = train_whole(network, [names] if isinstance(names, str) else names)
    if whole and hasattr(network, "trained_rows"):
        train_rows(network)  # none of what is trained whole
    return whole


def with_text(config: Any, tokenizer_folder: Path) -> Any:
    """A prompt that starts from a text gets the text's tokens; any other config stays as it is.

    Raises:
        ArgumentError: the text has no tokens.
    """
    text = getattr(config, "prompt_tuning_init_text", None)
    if not text:
        return config
    ids = load_tokenizer(tokenizer_folder)(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ArgumentError(f"prompt_tuning_init_text {text!r} has no tokens; write some words")
    return replace(config, init_ids=tuple(int(one) for one in ids))


def adapter_config(arguments: AdapterArguments) -> Any:
    """The method's config: its fields have the names of the arguments."""
    config = choose("adapter", arguments.adapter, ADAPTERS).config
    given = {field.name: getattr(arguments, field.name, None) for field in fields(config)}
    return config(**{name: value for name, value in given.items() if value is not None})
