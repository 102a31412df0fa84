"""paddle-sft merge: base + adapter -> one model folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

from paddle_sft.arguments.hub import hub_of
from paddle_sft.arguments.load import load_merge_arguments
from paddle_sft.cli.paddle_ready import paddle_ready
from paddle_sft.core.atomic import disk_errors, require_writable


def main(argv: Optional[List[str]] = None) -> int:
    """Merge, print the receipt, return 0."""
    arguments = load_merge_arguments(sys.argv[1:] if argv is None else argv)
    output = Path(arguments.output_path)
    require_writable(output.parent)
    paddle_ready(arguments.device, sys.stdout)
    from paddle_sft.export.merge import MergeJob, describe, merge
    from paddle_sft.models.remote import local_adapter, local_folder

    job = MergeJob(
        local_folder(arguments.model_name_or_path, hub_of(arguments)),
        local_adapter(arguments.lora_path, hub_of(arguments)),
        output,
        arguments.format,
        arguments.safe_serialization,
        arguments.tolerance,
        arguments.max_shard_size,
        arguments.overwrite_output_dir,
        arguments.merge_into,
        arguments.requantise,
        arguments.allow_other_base,
    )
    with disk_errors(output):
        receipt = merge(job)
    print(describe(receipt))
    print(f"{output} is a complete model folder ({arguments.format} layout)")
    return 0
