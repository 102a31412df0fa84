"""paddle-sft export: an adapter for PEFT, or one of another program as one of this suite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

from paddle_sft.arguments.hub import hub_of
from paddle_sft.arguments.load import load_export_arguments
from paddle_sft.cli.paddle_ready import paddle_ready
from paddle_sft.core.atomic import disk_errors, require_writable


def main(argv: Optional[List[str]] = None) -> int:
    """Write the folder, say what it is, return 0."""
    arguments = load_export_arguments(sys.argv[1:] if argv is None else argv)
    output = Path(arguments.output_path)
    require_writable(output.parent)
    paddle_ready("cpu")  # names and layouts: nothing is computed that a GPU would speed up
    from paddle_sft.export.peft import write_adapter_folder, write_peft_folder
    from paddle_sft.models.remote import local_adapter, local_folder

    hub = hub_of(arguments)
    base = local_folder(arguments.model_name_or_path, hub, with_weights=False)
    adapter, overwrite = local_adapter(arguments.lora_path, hub), arguments.overwrite_output_dir
    with disk_errors(output):
        if arguments.format == "peft":
            name = arguments.base_model_name or arguments.model_name_or_path
            notes = write_peft_folder(base, adapter, output, name, overwrite)
            print(f"{output} is an adapter for PEFT: PeftModel.from_pretrained(base, {str(output)!r})")
            for note in notes:
                print(f"note: {note}")
        else:
            saved = write_adapter_folder(base, adapter, output, overwrite)
            print(f"{output} is an adapter of method {saved.method}; name it as lora_path")
    return 0
