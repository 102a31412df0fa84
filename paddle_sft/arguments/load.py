"""A command line -> the arguments of a command, or one error with everything that is wrong."""

from __future__ import annotations

import dataclasses
import re
import sys
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Set, Tuple, Type, TypeVar

from paddle_sft.arguments.adapter import AdapterArguments
from paddle_sft.arguments.check import Draft, settle
from paddle_sft.arguments.check_quant import algorithm_problem
from paddle_sft.arguments.combine import CombineArguments
from paddle_sft.arguments.command_line import split_command_line
from paddle_sft.arguments.data import DataArguments
from paddle_sft.arguments.export import ExportArguments
from paddle_sft.arguments.fields import Key
from paddle_sft.arguments.files import SUFFIXES, read_file
from paddle_sft.arguments.generate import GenerateArguments, GenerateCommandArguments
from paddle_sft.arguments.hub import hub_problem
from paddle_sft.arguments.keys import UPSTREAM_GROUP, Catalogue, command_catalogue, finetune_catalogue
from paddle_sft.arguments.layers import Given, layer_of_file, layer_of_words
from paddle_sft.arguments.merge import MergeArguments
from paddle_sft.arguments.model import ModelArguments
from paddle_sft.arguments.owners import OWNERS
from paddle_sft.arguments.parallel import ParallelArguments
from paddle_sft.arguments.quant import QuantArguments
from paddle_sft.arguments.quantize import QuantizeArguments
from paddle_sft.arguments.quantize_calibrated import calibration_problems
from paddle_sft.arguments.train import TrainArguments
from paddle_sft.arguments.usage import usage
from paddle_sft.arguments.values import show
from paddle_sft.core.errors import ArgumentError

Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Arguments:
    """Everything a fine-tuning run is told."""

    model: ModelArguments
    data: DataArguments
    adapter: AdapterArguments
    quant: QuantArguments
    train: TrainArguments
    parallel: ParallelArguments
    generate: GenerateArguments
    upstream: Mapping[str, Any]
    """Keys of PaddleNLP's TrainingArguments that are passed on as the user gave them."""
    given: FrozenSet[str]
    """Our names of the keys that the user gave."""
    derived: Mapping[str, Tuple[Any, str]]
    """Key -> (value, why), for values that follow from others and values that have no effect."""
    sources: Mapping[str, str]
    """Key -> the file's path, command line, derived or default."""


@dataclass
class _Reading:
    """The merged layers of one command line."""

    values: Dict[str, Any]
    given: Dict[str, Given]
    problems: List[str]
    broken: Set[str]

    def require(self, **examples: str) -> None:
        """Note which keys have no value; `examples`: key -> what may be written for it."""
        for name, example in examples.items():
            if not self.values[name] and name not in self.broken:
                self.problems.append(f"{name} is missing; add --{name} {example}")

    def made(self, owner: Type[Owner], *problems: str) -> Owner:
        """The arguments, if nothing is wrong; `problems`: what else was looked for, empty where it is right.

        Raises:
            ArgumentError: all that is wrong, one line each.
        """
        self.problems.extend(filter(None, problems))
        _stop_at(self.problems)
        return owner(**self.values)


def load_finetune_arguments(argv: List[str]) -> Arguments:
    """Read CONFIG.json [--key value ...] for run_finetune.py.

    Raises:
        ArgumentError: all that is wrong, one line each.
        SystemExit: after printing the help for --help.
    """
    catalogue = finetune_catalogue()
    reading = _read(argv, catalogue, "run_finetune.py CONFIG.json [--key value ...]")
    draft = Draft(reading.values, set(reading.given) | reading.broken)
    for names, text in settle(draft):
        if not reading.broken.intersection(names):
            reading.problems.append(text)
    _stop_at(reading.problems)
    derived = {name: (item.value, item.why) for name, item in reading.given.items() if item.why}
    derived.update(draft.derived)
    upstream = {name: draft[name] for name in reading.given if _is_passed_on(catalogue.keys[name])}
    owned = {
        group: owner(**{field.name: draft[field.name] for field in dataclasses.fields(owner)})
        for group, owner in OWNERS.items()
    }
    sources = {name: _source(name, reading, draft) for name in catalogue.keys}
    return Arguments(**owned, upstream=upstream, given=frozenset(reading.given), derived=derived, sources=sources)


def load_merge_arguments(argv: List[str]) -> MergeArguments:
    """Read --key value ... for merge_lora_params.py.

    Raises:
        ArgumentError: all that is wrong, one line each.
        SystemExit: after printing the help for --help.
    """
    reading = _read_command(argv, "merge_lora_params.py", "--model_name_or_path M --lora_path L --output_path O")
    reading.require(model_name_or_path="FOLDER", lora_path="FOLDER", output_path="FOLDER")
    return reading.made(MergeArguments, hub_problem(reading.values), _size_problem(reading))


def _size_problem(reading: _Reading) -> str:
    size = reading.values["max_shard_size"]
    if re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]B", size) and float(re.match(r"[\d.]+", size).group()):
        return ""
    return f'max_shard_size must be a number with KB, MB or GB, such as 5GB, got "{size}"'


def load_quantize_arguments(argv: List[str]) -> QuantizeArguments:
    """Read MODEL --key value ... for paddle-sft quantize.

    Raises:
        ArgumentError: all that is wrong, one line each.
        SystemExit: after printing the help for --help.
    """
    if argv and not argv[0].startswith("-") and not argv[0].endswith(SUFFIXES):
        argv = ["--model_name_or_path", *argv]
    reading = _read_command(argv, "paddle-sft quantize", "MODEL --output O --weight_quantize_algo nf4")
    reading.require(model_name_or_path="FOLDER", output_path="FOLDER")
    if not reading.values["method"] and "method" not in reading.broken:
        reading.require(weight_quantize_algo="nf4")
    algorithms = reading.values["weight_quantize_algo"]
    problems = [hub_problem(reading.values), _size_problem(reading), algorithm_problem(algorithms or "nf4")]
    problems.extend(calibration_problems(reading.values))
    return reading.made(QuantizeArguments, *problems)


def load_export_arguments(argv: List[str]) -> ExportArguments:
    """Read --key value ... for paddle-sft export.

    Raises:
        ArgumentError: all that is wrong, one line each.
        SystemExit: after printing the help for --help.
    """
    reading = _read_command(argv, "paddle-sft export", "--model_name_or_path M --lora_path L --output_path O")
    reading.require(model_name_or_path="FOLDER", lora_path="FOLDER", output_path="FOLDER")
    return reading.made(ExportArguments, hub_problem(reading.values))


def load_combine_arguments(argv: List[str]) -> CombineArguments:
    """Read ADAPTER ADAPTER ... --key value ... for paddle-sft combine.

    Raises:
        ArgumentError: all that is wrong, one line each.
        SystemExit: after printing the help for --help.
    """
    first = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    if first and not argv[0].endswith(SUFFIXES):
        argv = ["--lora_path", *argv[:first], *argv[first:]]
    reading = _read_command(argv, "paddle-sft combine", "ADAPTER ADAPTER --weights 0.7 0.3 --output_path O")
    values, broken = reading.values, reading.broken
    reading.require(output_path="FOLDER")
    num = len(values["lora_path"] or ())
    if num < 2 and "lora_path" not in broken:
        reading.problems.append(f"a combination needs two or more adapters, {num} given; name them all")
    if values["weights"] is None:
        values["weights"] = [1.0 / max(num, 1)] * num
    elif len(values["weights"]) != num and not {"weights", "lora_path"} & broken:
        reading.problems.append(f"there are {num} adapters and {len(values['weights'])} weights; give one for each")
    if values["svd_rank"] is not None and not values["method"].endswith("svd") and "method" not in broken:
        reading.problems.append(f"svd_rank is set, and method {values['method']} has none; leave it out, or use svd")
    return reading.made(CombineArguments, hub_problem(values))


def load_generate_arguments(argv: List[str]) -> GenerateCommandArguments:
    """Read --key value ... for paddle-sft generate.

    Raises:
        ArgumentError: all that is wrong, one line each.
        SystemExit: after printing the help for --help.
    """
    reading = _read_command(argv, "paddle-sft generate", '--model_name_or_path M --prompt "..."')
    values, given = reading.values, reading.given
    reading.require(model_name_or_path="FOLDER")
    reading.problems.extend(filter(None, [hub_problem(values)]))
    if not {"prompt", "prompt_file"} & reading.broken:
        if values["prompt"] and values["prompt_file"]:
            reading.problems.append("prompt and prompt_file are both given; keep one")
        elif not values["prompt"] and not values["prompt_file"]:
            reading.problems.append('there is no prompt; add --prompt "..." or --prompt_file FILE.json')
    defaults = command_catalogue("paddle-sft generate").keys
    for name in ("top_k", "top_p", "temperature"):
        if name in given and not values["do_sample"] and values[name] != defaults[name].default:
            reading.problems.append(
                f"{name} is {show(values[name])} but do_sample is off; add --do_sample or leave it out"
            )
    return reading.made(GenerateCommandArguments)


def _read_command(argv: List[str], command: str, example: str) -> _Reading:
    return _read(argv, command_catalogue(command), f"{command} {example}")


def _read(argv: List[str], catalogue: Catalogue, command: str) -> _Reading:
    """Read file and command line, the latter winning, and check every value by itself."""
    line = split_command_line(list(argv))
    if line.help:
        print(usage(catalogue, command))
        sys.exit(0)
    problems: List[str] = []
    layers = []
    if line.file is not None:
        try:
            layers.append(layer_of_file(read_file(line.file), line.file, catalogue))
        except ArgumentError as error:
            problems.append(str(error))
    file_failed = bool(problems)
    layers.append(layer_of_words(line.words, catalogue))
    given: Dict[str, Given] = {}
    broken: Set[str] = set(catalogue.keys) if file_failed else set()
    for layer in layers:
        problems.extend(layer.problems)
        broken.update(layer.broken)
        given.update(layer.given)
    for name, item in given.items():
        text = _refusal(catalogue.keys[name], item)
        if text:
            problems.append(text)
            broken.add(name)
    values = {name: key.default for name, key in catalogue.keys.items()}
    values.update({name: item.value for name, item in given.items() if name not in broken})
    return _Reading(values, given, problems, broken)


def _refusal(key: Key, given: Given) -> str:
    """The message for a key that is not available yet and not at a value that switches it off, else nothing."""
    if key.available or key.is_off(given.value):
        return ""
    said = f"{given.written} {show(given.value)}"
    if given.why:
        said = f"{given.why}, which means {key.name} {show(given.value)}, and that"
    off = "Leave it out." if given.why else f"Leave it out, or write {show(key.default)}."
    return f"{said} is not available yet; {key.not_yet.instead} {off}"


def _is_passed_on(key: Key) -> bool:
    return key.group == UPSTREAM_GROUP and key.available


def _source(name: str, reading: _Reading, draft: Draft) -> str:
    if name in reading.given:
        return reading.given[name].source
    return "derived" if name in draft.derived else "default"


def _stop_at(problems: List[str]) -> None:
    """Raise one error with all problems."""
    if len(problems) == 1:
        raise ArgumentError(problems[0])
    if problems:
        raise ArgumentError(f"{len(problems)} problems with the arguments:\n" + "\n".join(f"- {p}" for p in problems))
