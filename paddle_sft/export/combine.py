"""One adapter folder from several."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from paddle_sft.adapters.combine import Combination, combine
from paddle_sft.adapters.saved import SavedAdapter, write_saved
from paddle_sft.adapters.state import read_adapter
from paddle_sft.core.atomic import atomic_folder
from paddle_sft.core.errors import ArgumentError
from paddle_sft.export.peft import open_adapter, require_free
from paddle_sft.models.tokenizers import copy_tokenizer


def write_combination(
    folders: Sequence[Path], how: Combination, output: Path, base: Optional[Path] = None, overwrite: bool = False
) -> SavedAdapter:
    """Write the combination of adapter folders.

    Args:
        base: their base model's folder, for folders of other programs.

    Raises:
        ArgumentError: they can't be combined; the output folder is not empty or one of them.
    """
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise ArgumentError(f"output_path {output} is one of the adapters; name another folder")
    require_free(output, overwrite)
    opened = [read_adapter(folder) if base is None else open_adapter(base, folder) for folder in folders]
    made = combine(opened, how)
    with atomic_folder(output) as beside:
        write_saved(beside, made)
        copy_tokenizer(folders[0], beside)
    return made
