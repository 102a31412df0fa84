"""Rows for single tokens in PEFT's folders: trainable_token_indices, and the tables of a vocabulary that grew."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np

from paddle_sft.adapters.peft.modules import Modules
from paddle_sft.adapters.saved import NEW_ROWS, SavedAdapter
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorFile, convert
from paddle_sft.models.vocabulary import NewRows, token_parameters

SETTING = "trainable_token_indices"
_ROWS = "token_adapter.trainable_tokens_delta"  # PEFT's name; it holds the rows themselves, no differences
_WHOLE = "modules_to_save.weight"
_UNTRAINED = ("token_adapter.base_layer.weight", "original_module.weight")
_TABLES = (*_UNTRAINED, "base_layer.weight", "weight")
_HEAD = "lm_head"
"""What PEFT writes of a head that is the embedding, a second time."""


@dataclass(frozen=True)
class TokenRows:
    """What a folder says of tokens."""

    rows: Optional[NewRows] = None
    arrays: Dict[str, np.ndarray] = field(default_factory=dict)
    """Under our names: the rows, and what was trained whole of a vocabulary that grew."""
    taken: Set[str] = field(default_factory=set)
    """Names in the file that are read here."""

    @property
    def whole(self) -> Dict[str, np.ndarray]:
        return {name: array for name, array in self.arrays.items() if not name.endswith(NEW_ROWS)}


@dataclass
class _Table:
    """What a folder has of one module of tokens: [vocabulary, size] or [rows, size], and their types."""

    ids: List[int]
    rows: Optional[Tuple[np.ndarray, str]] = None
    grown: Optional[Tuple[np.ndarray, str]] = None
    whole: Optional[Tuple[np.ndarray, str]] = None


def read_tokens(content: Dict[str, Any], file: TensorFile, begin: str, modules: Modules, folder: Path) -> TokenRows:
    """Rows for tokens that were trained, or that the base has not.

    Tokens that the base has are read where they stand next to each other. Where the vocabulary grew, PEFT writes the
    tables whole: their first rows are the base's own, which stay as they are, unless modules_to_save names the module.

    Args:
        begin: of PEFT's names.

    Raises:
        ModelError: ids that don't stand next to each other; rows that are missing.
    """
    base_size = int(modules.network.config.vocab_size)
    tables: Dict[str, _Table] = {}
    taken: Set[str] = set()
    for ours, module in _modules_of_tokens(modules).items():
        tables[ours], names = _read_table(content, file, begin + module, module, base_size)
        taken |= names
    of_embedding = next(iter(tables.values()))
    if len(tables) == 1:  # tied: PEFT may write the head a second time
        _, names = _read_table(content, file, f"{begin}{_HEAD}", _HEAD, base_size)
        taken |= {name for name in names if _is_again(file, name, of_embedding)}
    if content.get(SETTING) and not any(table.ids for table in tables.values()):
        raise ModelError(f"{folder}: {SETTING} names tokens, and there are no rows for them; save it again with PEFT")
    ids = sorted({one for table in tables.values() for one in table.ids})
    sizes = {len(table.grown[0]) for table in tables.values() if table.grown is not None}
    if not ids and not sizes:
        return TokenRows()
    first, end = _range(ids, sizes, base_size, folder)
    arrays: Dict[str, np.ndarray] = {}
    for ours, table in tables.items():
        rows = _rows_of(table, first, end, end > base_size, f"{folder}: {ours}")
        if rows is not None:
            arrays[ours + NEW_ROWS] = rows
        if table.whole is not None:
            piece = modules.renames.of_paddle[ours][0]
            arrays[ours] = np.ascontiguousarray(piece.turned(table.whole[0]))
    return TokenRows(NewRows(first, end, max(base_size, end), base_size), arrays, taken)


def _modules_of_tokens(modules: Modules) -> Dict[str, str]:
    """Our name of the embedding's weight, and of a head's that is another one -> transformers' name of the module."""
    names = [name for name, (one, _) in token_parameters(modules.network).items() if len(one.shape) == 2]
    return {name: modules.renames.of_paddle[name][0].hf[: -len(".weight")] for name in names}


def _read_table(
    content: Dict[str, Any], file: TensorFile, begin: str, module: str, base_size: int
) -> Tuple[_Table, Set[str]]:
    """(what there is of a module, the names that it was read from)."""
    found = {end: f"{begin}.{end}" for end in (_ROWS, _WHOLE, *_TABLES) if f"{begin}.{end}" in file.specs}
    grown = [end for end in found if end != _ROWS and file.specs[found[end]].shape[0] > base_size]
    read = {end: (np.asarray(file.read(found[end])), file.specs[found[end]].tag) for end in (*grown, _ROWS)
            if end in found}  # fmt: skip
    saved = any(_names(one, module) for one in content.get("modules_to_save") or ())
    whole = next((read[end] for end in (_WHOLE, "weight") if end in read), None) if saved else None
    table = next((read[end] for end in _TABLES if end in read), whole)
    ids = _ids_of(content, module, begin) if _ROWS in read else []
    return _Table(ids, read.get(_ROWS), table, whole), {found[end] for end in found if end in (*read, *_UNTRAINED)}


def _names(name: str, module: str) -> bool:
    return name == module or module.endswith(f".{name}")


def _ids_of(content: Dict[str, Any], module: str, place: str) -> List[int]:
    given = content.get(SETTING)
    if isinstance(given, dict):
        given = next((ids for name, ids in given.items() if _names(name, module)), None)
    if not isinstance(given, list) or not all(isinstance(one, int) and one >= 0 for one in given):
        raise ModelError(f"the folder has rows for tokens of {place}, and {SETTING} doesn't name them")
    return [int(one) for one in given]


def _is_again(file: TensorFile, name: str, embedding: _Table) -> bool:
    """Whether it is the embedding, or its rows, once more."""
    array = np.asarray(file.read(name))
    known = (embedding.rows, embedding.grown, embedding.whole)
    return any(one is not None and np.array_equal(array, one[0]) for one in known)


def _range(ids: List[int], sizes: Set[int], base_size: int, folder: Path) -> Tuple[int, int]:
    """[first, end) of the rows.

    Raises:
        ModelError: tables of several sizes; ids with others between them, or beyond the tables.
    """
    if len(sizes) > 1:
        raise ModelError(f"{folder} has embeddings and an LM head of {' and '.join(map(str, sorted(sizes)))} tokens")
    if sizes:
        return min([base_size, *ids]), next(iter(sizes))
    if ids[-1] - ids[0] + 1 != len(ids) or ids[0] > base_size:
        raise ModelError(
            f"{folder} has rows for the tokens {', '.join(map(str, ids[:8]))}, of a base of {base_size:,}; here they "
            "must stand next to each other. Merge the adapter with PEFT (merge_and_unload) and use the merged model"
        )
    return ids[0], ids[-1] + 1


def _rows_of(table: _Table, first: int, end: int, are_new: bool, place: str) -> Optional[np.ndarray]:
    """[end - first, size], stored; None where the base's own rows hold."""
    own = table.whole or table.grown
    if own is None:
        if table.rows is None and are_new:
            raise ModelError(
                f"{place} has no rows for the new tokens {first} to {end - 1}; save the adapter with PEFT again, with "
                "save_embedding_layers=True"
            )
        if table.rows is None:
            return None
        order = np.argsort(table.ids)
        if len(table.ids) != len(table.rows[0]) or [table.ids[i] for i in order] != list(range(first, end)):
            raise ModelError(f"{place} has other rows than {SETTING} says")
        return np.ascontiguousarray(table.rows[0][order])
    array, tag = own
    if table.rows is None:
        return np.ascontiguousarray(array[first:end])
    values, to_tag = table.rows
    rows = np.array(convert(np.ascontiguousarray(array[first:end]), tag, to_tag))
    rows[np.array(table.ids) - first] = values
    return rows


def write_tokens(saved: SavedAdapter, modules: Modules, begin: str) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """(setting, PEFT's name -> rows) of an adapter's rows for tokens.

    Raises:
        ArgumentError: a bias of the head has rows, too, or the embedding has an update: PEFT would leave them out.
    """
    if saved.new_rows is None:
        return {}, {}
    ids = list(range(saved.new_rows.first, saved.new_rows.end))
    module_of = _modules_of_tokens(modules)
    beyond = [name for name in saved.rows() if name not in module_of]
    beyond += [path for path in saved.shapes if path in modules.embeddings]
    if beyond:
        raise ArgumentError(
            f"{saved.folder} has rows for new tokens and {beyond[0]} as well, and PEFT computes one of both; merge it "
            "(paddle-sft merge)"
        )
    kept = {module_of[name]: rows for name, (rows, _) in saved.rows().items() if name not in saved.whole}
    arrays = {f"{begin}{module}.{_ROWS}": np.asarray(rows) for module, rows in kept.items()}
    return ({SETTING: {module: ids for module in kept}} if kept else {}), arrays
