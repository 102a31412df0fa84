"""paddle-sft plan: what a run would need on given devices, and the layouts that fit; nothing is loaded or started."""

from __future__ import annotations

import argparse
import json
import sys
from typing import List, Optional, Tuple

from paddle_sft.arguments.files import SUFFIXES
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli.plan_devices import read_devices
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.threads import import_quietly

CONTEXT, RESERVE, TOP = 1.0, 8.0, 5


def main(argv: Optional[List[str]] = None) -> int:
    """Print the plan; 0 where some layout fits (or no memory is given), 1 where none does."""
    options, rest = _parse(sys.argv[1:] if argv is None else argv)
    devices = read_devices(options.devices, options.context, options.reserve)
    if options.top < 1:
        raise ArgumentError(f"--top must be at least 1, got {options.top}")
    rest = _as_arguments(rest)
    arguments = load_finetune_arguments(rest)
    import_quietly("paddle")
    from paddle_sft.cli.plan_case import Case
    from paddle_sft.cli.plan_search import helps, search
    from paddle_sft.cli.plan_text import as_json, report_lines

    found = search(Case.of(arguments), devices)
    changes = []
    if not found.fitting:
        changes = list(helps(lambda words: Case.of(load_finetune_arguments([*rest, *words])), found.case, devices))
    if options.json:
        print(json.dumps(as_json(found, changes, options.top), indent=2))
    else:
        print("\n".join(report_lines(found, changes, options.top)))
    return 0 if found.fitting else 1


def _as_arguments(words: List[str]) -> List[str]:
    """The command line of a run; a model in place of an argument file is trained with the defaults."""
    if not words or words[0].startswith("-") or words[0].endswith(SUFFIXES):
        return words
    given = {"do_train": "true", "dataset_name_or_path": "-", "output_dir": "-"}
    known = [f"--{key}={value}" for key, value in given.items()]
    return ["--model_name_or_path", words[0], *known, *words[1:]]


def _parse(argv: List[str]) -> Tuple[argparse.Namespace, List[str]]:
    parser = argparse.ArgumentParser(
        prog="paddle-sft plan",
        usage="paddle-sft plan CONFIG.json|MODEL --devices 8x80GB [--json] [options] [--key value ...]",
        description="Memory and messages of every layout that a run could have, from the model's config.json alone.",
        epilog="CONFIG.json and --key value are those of paddle-sft train. MODEL is a folder with a config.json or a "
        "known shape such as llama3-70b, trained with the defaults.",
        allow_abbrev=False,
    )
    parser.add_argument("--devices", required=True, help="8, 8x80GB, or 2x8x80GB for two nodes; GB or GiB")
    parser.add_argument("--json", action="store_true", help="for a program")
    parser.add_argument("--top", type=int, default=TOP, help=f"layouts to list (default {TOP})")
    parser.add_argument(
        "--context", type=float, default=CONTEXT, help=f"GB a device needs before any tensor (default {CONTEXT:g})"
    )
    parser.add_argument(
        "--reserve", type=float, default=RESERVE, help=f"percent left for fragmentation (default {RESERVE:g})"
    )
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    from paddle_sft.cli.entry import run

    sys.exit(run("paddle_sft.cli.plan"))
