"""paddle-sft spectrum: which matrices of a model carry the most signal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from paddle_sft.cli.paddle_ready import paddle_ready
from paddle_sft.core.atomic import disk_errors, require_writable, write_json
from paddle_sft.core.errors import ArgumentError


def main(argv: Optional[List[str]] = None) -> int:
    """Measure, write the report, print it, return 0."""
    given = _read(sys.argv[1:] if argv is None else argv)
    output = Path(given.output)
    require_writable(output.parent)
    paddle_ready("cpu")
    from paddle_sft.models.remote import local_folder
    from paddle_sft.train.spectrum import make_report, measure, report_lines

    folder = local_folder(given.model)
    names, matrices = _matrices(folder)
    extra = [name for name in names if any(f".{part}." in f".{name}." for part in given.extra)]
    found = make_report(measure(matrices), given.top, str(folder), extra)
    with disk_errors(output):
        write_json(output, found)
    print("\n".join(report_lines(found)))
    print(f'{output} is written; "spectrum_config_path": "{output}" trains these')
    return 0


def _read(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="paddle-sft spectrum", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", help="model folder, or a name on a hub")
    parser.add_argument("--top", type=float, default=30.0, help="percent of the matrices of each kind (30)")
    parser.add_argument("--output", default="spectrum.json", help="where the report goes (spectrum.json)")
    parser.add_argument(
        "--extra", nargs="*", default=[], help="weights to train beside the matrices, such as embed_tokens lm_head"
    )
    given = parser.parse_args(argv)
    if not 0 < given.top <= 100:
        raise ArgumentError(f"--top must be above 0 and at most 100, got {given.top:g}")
    return given


def _matrices(folder: Path) -> Tuple[List[str], Iterator]:
    """Names of all weights, and (name, float32 matrix) of every linear layer, read when it is asked for."""
    from paddle_sft.core.tensorfile import to_float32
    from paddle_sft.models.config import read_config
    from paddle_sft.models.hub import build_empty, require_complete, unique_parameters
    from paddle_sft.models.linears import find_linears
    from paddle_sft.models.weights import ModelWeights
    from paddle_sft.models.writer import renames_of

    network = build_empty(read_config(folder), "float32")
    weights = ModelWeights(folder, renames_of(network))
    require_complete(weights, network, folder)
    names = [f"{path}.weight" for path in find_linears(network)]

    def read() -> Iterator:
        for number, name in enumerate(names, 1):
            print(f"\r{number} of {len(names)}", end="", file=sys.stderr, flush=True)
            yield name, to_float32(weights.read(name), weights.spec(name).tag)
            weights.release(name)
        print("", file=sys.stderr)

    return list(unique_parameters(network)), read()
