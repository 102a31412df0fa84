"""paddle-sft doctor --model: what a run would make of a model folder, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from paddle_sft.cli.machine import Machine
from paddle_sft.core.errors import ModelError
from paddle_sft.models.hubs import HUBS
from paddle_sft.models.remote import cached_folder, looks_like_path
from paddle_sft.models.survey import Survey, memory_bytes, survey, verified

LORA_RANK = 8
HALF = '"bf16": true, "fp16_opt_level": "O2"'


def find_model(name: str) -> Path:
    """The folder of a model that is on this machine: a folder, or one in a hub's cache. Nothing is downloaded.

    Raises:
        ModelError: it is not here.
    """
    if looks_like_path(name) and not Path(name).expanduser().is_dir():
        raise ModelError(f"no model folder {name}")
    looked = []
    for hub, place in HUBS.items():
        try:
            folder = cached_folder(name, hub)
            looked.append(str(place.cached(name)))
        except ModelError:  # the hub's client is not installed, so nothing of it is here
            continue
        if folder is not None:
            return folder
    raise ModelError(
        f"{name!r} is no folder here, and no cache of a hub has all of it (looked in {', '.join(looked)}). Doctor "
        "downloads nothing, a run does; or give a model folder"
    )


def look(name: str) -> Survey:
    """The survey of a model by folder or name; a name that is not here is a problem like any other."""
    try:
        return survey(find_model(name))
    except ModelError as error:
        return Survey(Path(name), problems=[str(error)])


def add_reading(found: Survey) -> None:
    """Read every weight as loading would: names, shapes, checksums, numbers. Imports paddle; memory is one weight."""
    from paddle_sft.models.full_read import read_through

    try:
        num_weights = read_through(found.folder)
    except ModelError as error:
        found.problems.append(str(error))
        return
    found.reading = f"all {num_weights} weights are there, with the shapes of the config and numbers that are numbers"


def report_lines(found: Survey, machine: Machine) -> List[str]:
    """The report as a person reads it."""
    rows = list(_rows(found, machine))
    width = max((len(name) for name, _ in rows), default=0)
    lines = [f"Model {found.folder}", *(f"  {name:<{width}}  {text}".rstrip() for name, text in rows), ""]
    if not found.problems:
        return lines + ["It can be trained."]
    lines.append(f"{len(found.problems)} thing(s) to mend before it can be trained")
    return lines + [f"  {number}. {problem}" for number, problem in enumerate(found.problems, 1)]


def as_json(found: Survey, machine: Machine) -> Dict[str, Any]:
    """The same for a program."""
    return {
        "folder": str(found.folder),
        "family": found.family,
        "verified": verified()["families"].get(found.family),
        "layout": found.layout,
        "files": found.num_files,
        "bytes": found.num_bytes,
        "parameters": found.num_parameters,
        "tied": found.is_tied,
        "dtypes": found.dtypes,
        "checksums": found.has_checksums,
        "vocab_size": found.embedding_rows,
        "tokenizer": found.tokenizer,
        "largest_id": found.largest_id,
        "chat_template": found.chat_template,
        "unknown_keys": found.unknown_keys,
        "memory": {word: memory_bytes(found, size, LORA_RANK) for word, size in _types(machine)},
        "problems": found.problems,
    }


def _rows(found: Survey, machine: Machine) -> Iterator[Tuple[str, str]]:
    if found.family:
        yield "family", _family(found)
    if found.num_files:
        yield "stored as", _stored(found)
        yield "checksums", _checksums(found)
    if found.reading:
        yield "read", found.reading
    if found.num_parameters:
        tied = "the head is the embedding, counted once" if found.is_tied else "embedding and head apart"
        yield "parameters", f"{found.num_parameters:,} ({tied})"
    if found.num_files:
        yield "trains in", _trains_in(machine)
    for word, size in _types(machine):
        needed = memory_bytes(found, size, LORA_RANK)
        if needed:
            yield f"memory, {word}", _memory(needed)
    if found.num_parameters:
        yield (
            "",
            f"activations come on top; this machine has {_gigabytes(int(machine.memory_gb * 1e9))}" + _gpus(machine),
        )
    positions = found.config.get("max_position_embeddings") or found.config.get("n_positions")
    if positions:
        yield "positions", f"{positions:,}"
    if found.tokenizer:
        rows = f"; the embedding has {found.embedding_rows:,} rows" if found.embedding_rows else ""
        yield "tokenizer", found.tokenizer + rows
        yield "chat template", _template(found)
    if found.unknown_keys:
        yield "not understood", f"{', '.join(found.unknown_keys)} (in config.json; nobody here reads them)"


def _family(found: Survey) -> str:
    measured: Optional[Dict[str, Any]] = verified()["families"].get(found.family)
    if measured is None:
        return f"{found.family}: not verified"
    versions = verified()["versions"]
    can = ["packing"] if "packed" in measured else []
    can += ["FlashMask on a GPU (we have not run it on one)"] if measured["flashmask"] else []
    can += ["merge"] if "merged" in measured else []
    return (
        f"{found.family}: logits within {measured['logits']:.0e} and gradients within {measured['gradients']:.0e} of "
        f"transformers {versions['transformers']}, over {measured['configs']} random configs; {', '.join(can)}"
    )


def _stored(found: Survey) -> str:
    kinds = ", ".join(found.dtypes) or "a pickle, whose contents are seen when it is loaded"
    files = "1 file" if found.num_files == 1 else f"{found.num_files} shards"
    return f"{kinds}; {found.layout} layout, {files}, {_gigabytes(found.num_bytes)}"


def _checksums(found: Survey) -> str:
    if found.has_checksums:
        return "of every tensor; compared when the model is loaded"
    return "none; a changed byte would be seen only if it makes a number infinite or NaN"


def _types(machine: Machine) -> List[Tuple[str, int]]:
    return [("float32", 4), ("bfloat16", 2)] if machine.driver.gpus else [("float32", 4)]


def _trains_in(machine: Machine) -> str:
    if machine.driver.gpus:
        return f"float32, or bfloat16 with {HALF}"
    return f"float32: there is no GPU here (on one: bfloat16 with {HALF})"


def _memory(needed: Dict[str, int]) -> str:
    parts = {"weights": "weights", "full": "full fine-tuning with AdamW", "lora": f"LoRA of rank {LORA_RANK}, about"}
    return "; ".join(f"{words} {_gigabytes(needed[key])}" for key, words in parts.items())


def _gpus(machine: Machine) -> str:
    return f" and {'; '.join(machine.driver.gpus)}" if machine.driver.gpus else ""


def _template(found: Survey) -> str:
    if found.chat_template:
        return f"{found.chat_template}; applied with template auto"
    return "none; prompt and answer are joined as they stand, or choose a built-in template"


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
