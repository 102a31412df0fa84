"""paddle-sft quantize --method: calibrated on the user's data, by PaddleSlim."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from paddle_sft.arguments.data import DataArguments
from paddle_sft.arguments.files import SUFFIXES, read_file
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.arguments.quantize import QuantizeArguments
from paddle_sft.core.atomic import disk_errors
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.build import build_samples
from paddle_sft.export.quantise import require_free
from paddle_sft.export.slim.deploy import DeployJob, deploy, describe
from paddle_sft.models.tokenizers import load_tokenizer


def quantize_calibrated(arguments: QuantizeArguments, folder: Path, output: Path) -> None:
    """Quantise, and print the perplexity before and after."""
    block = arguments.weight_blocksize
    job = DeployJob(
        folder,
        output,
        arguments.method,
        arguments.weight_quantize_algo,
        0 if block == -1 else block,
        arguments.weight_observer,
        arguments.activation_observer,
        arguments.smooth_alpha,
    )
    require_free(output)  # before the samples are made
    calibration, held_out, where = _samples(arguments, folder)
    print(f"calibrating on {len(calibration)} samples, measuring on {len(held_out)} ({where})", flush=True)
    with disk_errors(output):
        report = deploy(job, calibration, held_out)
    print("\n".join(describe(report)))
    print(f"{output} is a complete model folder; name it as model_name_or_path, without quantisation keys")


def _samples(arguments: QuantizeArguments, folder: Path) -> Tuple[List[Any], List[Any], str]:
    """(to calibrate on, to measure on, where the latter are from)."""
    data, stage = _data_arguments(arguments.calibration_data)
    tokenizer = load_tokenizer(folder)
    train = build_samples(data, tokenizer, "train", stage, model_folder=folder).samples
    calibration = [train[number] for number in range(min(arguments.calibration_samples, len(train)))]
    try:
        dev = build_samples(data, tokenizer, "dev", stage, model_folder=folder).samples
        return calibration, [dev[n] for n in range(min(arguments.evaluation_samples, len(dev)))], "dev split"
    except DataError as error:
        end = min(len(train), len(calibration) + arguments.evaluation_samples)
        rest = [train[number] for number in range(len(calibration), end)]
        if not rest:
            raise ArgumentError(
                f"nothing is left to measure on: the train split has {len(train)} samples, calibration_samples takes "
                f"{len(calibration)}, and there is no dev split ({error}); lower calibration_samples"
            ) from error
        return calibration, rest, "train split, behind those of the calibration"


def _data_arguments(given: str) -> Tuple[Any, str]:
    """(data arguments, stage): of a run, or the defaults for a folder or file of data."""
    content = _argument_file(Path(given))
    if content is None:
        return DataArguments(dataset_name_or_path=given), "sft"
    if "num_ranks" in content:  # arguments.json of a run: every key at the value it had
        names = {field.name for field in fields(DataArguments)} & content.keys()
        return DataArguments(**{name: content[name] for name in names}), _stage(content["stage"])
    run = load_finetune_arguments([given])
    return run.data, _stage(run.train.stage)


def _stage(of_run: str) -> str:
    return "pretrain" if of_run == "pretrain" else "sft"


def _argument_file(path: Path) -> Optional[Dict[str, Any]]:
    """The keys of an argument file; None for a folder, and for rows of data."""
    if not path.is_file() or path.suffix not in SUFFIXES:
        return None
    try:
        content = dict(read_file(str(path)))
    except ArgumentError:
        return None
    return content if {"dataset_name_or_path", "dataset"} & content.keys() else None
