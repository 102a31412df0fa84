"""paddle-sft quantize: a model folder whose linear layers are stored in 4 or 8 bits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

from paddle_sft.arguments.hub import hub_of
from paddle_sft.arguments.load import load_quantize_arguments
from paddle_sft.cli.paddle_ready import paddle_ready
from paddle_sft.core.atomic import disk_errors, require_writable


def main(argv: Optional[List[str]] = None) -> int:
    """Quantise, print the report, return 0."""
    arguments = load_quantize_arguments(sys.argv[1:] if argv is None else argv)
    output = Path(arguments.output_path)
    require_writable(output.parent)
    paddle_ready(arguments.device, sys.stdout)
    from paddle_sft.cli.quantize_calibrated import quantize_calibrated
    from paddle_sft.cli.run_quant import choice_of
    from paddle_sft.export.quantise import QuantiseJob, describe, quantise_folder
    from paddle_sft.models.remote import local_folder

    folder = local_folder(arguments.model_name_or_path, hub_of(arguments))
    if arguments.method is not None:
        quantize_calibrated(arguments, folder, output)
        return 0
    with disk_errors(output):
        report = quantise_folder(QuantiseJob(folder, output, choice_of(arguments), arguments.max_shard_size))
    print(describe(report))
    print(f"{output} is a complete model folder; name it as model_name_or_path, without quantisation keys")
    return 0
