"""paddle-sft combine: one adapter from several of the same base."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

from paddle_sft.arguments.hub import hub_of
from paddle_sft.arguments.load import load_combine_arguments
from paddle_sft.cli.paddle_ready import paddle_ready
from paddle_sft.core.atomic import disk_errors, require_writable


def main(argv: Optional[List[str]] = None) -> int:
    """Write the combination, say what it is, return 0."""
    arguments = load_combine_arguments(sys.argv[1:] if argv is None else argv)
    output = Path(arguments.output_path)
    require_writable(output.parent)
    paddle_ready("cpu")  # the matrices are products of thin ones; what takes time is the SVD of numpy
    from paddle_sft.adapters.combine import Combination
    from paddle_sft.export.combine import write_combination
    from paddle_sft.models.remote import local_adapter, local_folder

    hub, name = hub_of(arguments), arguments.model_name_or_path
    base = local_folder(name, hub, with_weights=False) if name else None
    folders = [local_adapter(path, hub) for path in arguments.lora_path]
    how = Combination(arguments.method, tuple(arguments.weights), arguments.svd_rank, arguments.density, arguments.seed)
    with disk_errors(output):
        made = write_combination(folders, how, output, base, arguments.overwrite_output_dir)
    parts = ", ".join(f"{weight:g} of {path}" for path, weight in zip(arguments.lora_path, arguments.weights))
    ranks = sorted({made.config.for_path(path).lora_rank for path in made.shapes})
    said = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    print(f"{output} is a LoRA adapter of rank {said}: {parts} ({arguments.method})")
    return 0
