"""paddle-sft data: check the data of a run, or show its samples as the model sees them."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from paddle_sft.arguments.load import Arguments, load_finetune_arguments
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, DataError, PaddleSFTError

EXIT_FINDINGS = 1
NUM_PLACES = 10
"""Places of a kind of finding that are written out without --all."""

USAGE = """usage: paddle-sft data check CONFIG.json [--fix FOLDER] [--plot FILE.png] [--all] [--key value ...]
       paddle-sft data show CONFIG.json [--num N] [--split train|dev] [--key value ...]

check  looks for bad lines, empty and repeated samples, dev data in the training data, messages out of order, marks of
       templates in texts, damaged encodings and truncated answers; shows how long samples are and how they pack.
       Exit code 0: nothing found, 1: findings, 2: the arguments can't work. --fix writes a cleaned copy into a new
       folder; the data itself is never touched. --plot draws the lengths. --all writes out every place.
show   prints the first N samples (3) of each source; trained tokens are green (between brackets when NO_COLOR is set or
       the output is no terminal)."""


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
    from paddle_sft.data.histogram import bars, length_histogram
    from paddle_sft.data.lint import check_data

    folder, words = _take(words, "--fix")
    picture, words = _take(words, "--plot")
    if picture is not None and not picture.lower().endswith(".png"):
        raise ArgumentError(f"--plot is {picture!r}; a file name that ends in .png is needed")
    every = "--all" in words
    arguments = load_finetune_arguments([word for word in words if word != "--all"])
    try:
        tokenizer, model_folder = _tokenizer(arguments)
    except (PaddleSFTError, ImportError) as error:
        if picture is not None:
            raise
        tokenizer = model_folder = None
        print(f"without a tokenizer, lengths and the template are not checked: {error}")
    checked = check_data(arguments.data, arguments.train.stage, tokenizer, model_folder)
    for split, rows in checked.rows.items():
        print(f"{split}: {len(rows):,} readable rows in {', '.join(str(path) for path in checked.files[split])}")
    for note in checked.notes:
        print(note)
    for split, lengths in checked.lengths.items():
        print("\n".join([f"tokens of {split} samples, before length_policy:", *bars(length_histogram(lengths))]))
    if picture is not None:
        _plot(Path(picture), checked.lengths, arguments)
    packs = tokenizer is None or "train" not in checked.rows or _print_packing(arguments, tokenizer, model_folder)
    _print_findings(checked.findings, every)
    if folder is not None:
        for line in write_clean(checked, Path(folder)).values():
            print(f"written: {line}")
    return EXIT_FINDINGS if checked.findings or not packs else 0


def _plot(picture: Path, lengths: Dict[str, List[int]], arguments: Arguments) -> None:
    from paddle_sft.data.histogram import plot_lengths

    if not any(lengths.values()):
        print(f"{picture} is not written: no sample could be read")
        return
    data = arguments.data
    names = data.dataset or data.dataset_name_or_path or data.eval_dataset
    listed = [names] if isinstance(names, str) else list(names)
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot_lengths(picture, lengths, data.max_length, ", ".join(listed))
    print(f"written: {picture}")


def _print_packing(arguments: Arguments, tokenizer: Any, model_folder: Path) -> bool:
    """The mix and the packing of the first epoch, as the plan of the run would show them; False when there is none."""
    from paddle_sft.cli.run_data import make_feed, mixing_lines, mixing_tables, packing_lines, weights_of
    from paddle_sft.data.build import build_samples
    from paddle_sft.data.sources import find_sources

    data, stage = arguments.data, arguments.train.stage
    if data.lazy:
        print("rows are packed while they are read (lazy), so no packing is known before")
        return True
    try:
        built = build_samples(data, tokenizer, "train", stage, progress=False, model_folder=model_folder)
    except DataError as error:
        print(f"no packing: training would refuse this data ({str(error).splitlines()[0]})")
        return False
    feed = make_feed(arguments, built.samples, weights_of(find_sources(data, "train", stage)))
    packing = packing_lines(feed) or ["Packing: none; each row of a batch is one sample."]
    print("\n".join([*built.report.lines(), *mixing_lines(mixing_tables(feed)), *packing]))
    return True


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
    import numpy as np

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
    for source, name in enumerate(built.samples.source_names):
        numbers = np.flatnonzero(np.asarray(built.samples.source) == source)
        if name:
            print(f"\n{name}: {len(numbers):,} samples")
        for place in numbers[: int(number or 3)]:
            print("\n" + show_sample(built.samples[place], tokenizer, colored))
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
    from paddle_sft.arguments.hub import hub_of
    from paddle_sft.models.remote import local_folder
    from paddle_sft.models.tokenizers import load_tokenizer

    model = arguments.model
    name = model.tokenizer_name_or_path or model.model_name_or_path or model.config_name
    folder = local_folder(name, hub_of(model), with_weights=False)
    return load_tokenizer(folder), folder


if __name__ == "__main__":
    sys.exit(main())
