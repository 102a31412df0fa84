"""paddle-sft data: check the data of a run, or show its samples as the model sees them."""

from __future__ import annotations

import sys
from itertools import groupby, islice
from pathlib import Path
from typing import Any, List, Optional, Tuple

from paddle_sft.arguments.load import Arguments, load_finetune_arguments
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, PaddleSFTError

EXIT_FINDINGS = 1
NUM_PLACES = 10
"""Places of a kind of finding that are written out without --all."""

USAGE = """usage: paddle-sft data check CONFIG.json [--fix FOLDER] [--all] [--key value ...]
       paddle-sft data show CONFIG.json [--num N] [--split train|dev] [--key value ...]

check  looks for bad lines, empty and repeated samples, dev data in the training data, messages out of order, marks of
       templates in texts, damaged encodings and truncated answers. Exit code 0: nothing found, 1: findings, 2: the
       arguments can't work. --fix writes a cleaned copy into a new folder; the data itself is never touched. --all
       writes out every place.
show   prints samples; trained tokens are green (between brackets when NO_COLOR is set or the output is no terminal)."""


def main(argv: Optional[List[str]] = None) -> int:
    """Run one of the two; 0, or 1 when a check has findings."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        print(USAGE)
        return 0 if words else 2
    return choose("paddle-sft data", words[0], {"check": check, "show": show})(words[1:])


def check(words: List[str]) -> int:
    """paddle-sft data check."""
    from paddle_sft.data.clean import write_clean
    from paddle_sft.data.lint import check_data, length_histogram
    from paddle_sft.data.show import bars

    folder, words = _take(words, "--fix")
    every = "--all" in words
    arguments = load_finetune_arguments([word for word in words if word != "--all"])
    try:
        tokenizer, model_folder = _tokenizer(arguments)
    except (PaddleSFTError, ImportError) as error:
        tokenizer = model_folder = None
        print(f"without a tokenizer, lengths and the template are not checked: {error}")
    checked = check_data(arguments.data, arguments.train.stage, tokenizer, model_folder)
    for split, rows in checked.rows.items():
        print(f"{split}: {len(rows):,} readable rows in {', '.join(str(path) for path in checked.files[split])}")
    for note in checked.notes:
        print(note)
    for split, lengths in checked.lengths.items():
        print("\n".join([f"tokens of {split} samples, before length_policy:", *bars(length_histogram(lengths))]))
    _print_findings(checked.findings, every)
    if folder is not None:
        for line in write_clean(checked, Path(folder)).values():
            print(f"written: {line}")
    return EXIT_FINDINGS if checked.findings else 0


def _print_findings(findings: List[Any], every: bool) -> None:
    from paddle_sft.data.lint import CHECKS

    if not findings:
        print("nothing found")
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        found = list(group)
        print(f"{kind} ({len(found):,}): a row that {CHECKS[kind]}")
        shown = found if every else found[:NUM_PLACES]
        print("\n".join(f"  {finding.line()}" for finding in shown))
        if len(shown) < len(found):
            print(f"  ... and {len(found) - len(shown):,} more; --all shows them")


def show(words: List[str]) -> int:
    """paddle-sft data show."""
    from paddle_sft.data.build import build_samples
    from paddle_sft.data.show import show_sample, wants_color

    number, words = _take(words, "--num")
    split, words = _take(words, "--split")
    if number is not None and not (number.isdigit() and int(number)):
        raise ArgumentError(f"--num is {number!r}; a number of samples from 1 on is needed")
    choose("--split", split or "train", {"train": 0, "dev": 0})
    arguments = load_finetune_arguments(words)
    tokenizer, model_folder = _tokenizer(arguments)
    stage = arguments.train.stage
    built = build_samples(arguments.data, tokenizer, split or "train", stage, progress=False, model_folder=model_folder)
    print("\n".join(built.lines()))
    colored = wants_color(sys.stdout.isatty())
    for sample in islice(built.samples, int(number or 3)):
        print("\n" + show_sample(sample, tokenizer, colored))
    return 0


def _take(words: List[str], flag: str) -> Tuple[Optional[str], List[str]]:
    """(the value behind a flag of ours, the other words)."""
    if flag not in words:
        return None, words
    at = words.index(flag)
    if at + 1 >= len(words) or words[at + 1].startswith("--"):
        raise ArgumentError(f"{flag} needs a value")
    return words[at + 1], words[:at] + words[at + 2 :]


def _tokenizer(arguments: Arguments) -> Tuple[Any, Path]:
    from paddle_sft.models.remote import local_folder
    from paddle_sft.models.tokenizers import load_tokenizer

    model = arguments.model
    name = model.tokenizer_name_or_path or model.model_name_or_path or model.config_name
    folder = Path(local_folder(name, from_hf_hub=model.from_hf_hub, from_aistudio=model.from_aistudio))
    return load_tokenizer(folder), folder


if __name__ == "__main__":
    sys.exit(main())
