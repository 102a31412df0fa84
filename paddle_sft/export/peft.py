"""Adapter folders from adapter folders: ours from those of other programs, PEFT's from any."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

from paddle_sft.adapters.attach import base_layers
from paddle_sft.adapters.peft.folder import PEFT_CONFIG, PEFT_WEIGHTS, peft_folder
from paddle_sft.adapters.saved import ADAPTER_WEIGHTS, SavedAdapter, require_base, write_saved
from paddle_sft.adapters.state import read_adapter
from paddle_sft.core.atomic import atomic_folder, write_json
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.tensorfile import write_arrays
from paddle_sft.models.classification import build_empty_classifier, classes_of
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_empty
from paddle_sft.models.linears import features
from paddle_sft.models.tokenizers import copy_tokenizer

_OURS = {ADAPTER_WEIGHTS, PEFT_WEIGHTS}


def empty_network(base: Path) -> Any:
    """The network of a base model's folder, without its weights."""
    config = read_config(base)
    classes = classes_of(config, str(base))
    return build_empty(config, "float32") if classes is None else build_empty_classifier(config, "float32", classes)


def open_adapter(base: Path, adapter: Path) -> SavedAdapter:
    """An adapter folder of any program, checked against its base's layers."""
    network = empty_network(base)
    saved = read_adapter(adapter, network)
    require_base(saved, {path: features(layer) for path, layer in base_layers(network).items()}, str(base))
    return saved


def require_free(output: Path, overwrite: bool) -> None:
    """
    Raises:
        ArgumentError: the folder holds something; with overwrite, something else than an adapter.
    """
    if output.exists() and not output.is_dir():
        raise ArgumentError(f"output_path {output} is a file; name another folder")
    names = {path.name for path in output.iterdir()} if output.exists() else set()
    if names and not overwrite:
        raise ArgumentError(
            f"output_path {output} is not empty; name another folder, or set overwrite_output_dir to true"
        )
    if names and not names & _OURS:
        raise ArgumentError(
            f"output_path {output} holds something else than an adapter, and overwrite_output_dir would remove all of "
            "it; name another folder"
        )


def write_adapter_folder(base: Path, adapter: Path, output: Path, overwrite: bool = False) -> SavedAdapter:
    """An adapter folder of this suite from one of any program."""
    require_free(output, overwrite)
    saved = open_adapter(base, adapter)
    with atomic_folder(output) as beside:
        write_saved(beside, saved)
        copy_tokenizer(adapter, beside)
    return saved


def write_peft_folder(
    base: Path, adapter: Path, output: Path, base_name: Optional[str] = None, overwrite: bool = False
) -> List[str]:
    """A folder for PEFT from an adapter of any program; returns what PEFT has to be told beside it.

    Args:
        base_name: where PEFT finds the base, written into its config.
    """
    require_free(output, overwrite)
    saved = open_adapter(base, adapter)
    content, arrays = peft_folder(saved, empty_network(base), base_name)
    with atomic_folder(output) as beside:
        write_arrays(beside / PEFT_WEIGHTS, arrays, {"format": "pt"})
        write_json(beside / PEFT_CONFIG, content)
        copy_tokenizer(adapter, beside)
    return notes(saved)


def notes(saved: SavedAdapter) -> List[str]:
    """What a folder of PEFT can't say."""
    found: List[str] = []
    changed: Dict[str, Any] = saved.scaled_positions or {}
    if changed:
        keys = ", ".join(f"{key} {value!r}" for key, value in changed.items())
        found.append(f"it was trained with longer positions: set {keys} in the config.json of the base that PEFT loads")
    rows = saved.new_rows
    if rows is not None and rows.vocab_size > rows.base_size:
        found.append(
            f"it has tokens that the base has not: call base.resize_token_embeddings({rows.vocab_size}) before "
            "PeftModel.from_pretrained, and take this folder's tokenizer"
        )
    return found
