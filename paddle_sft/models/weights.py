"""The tensors of a model folder, whichever layout it has, under the names of PaddleNLP's state_dict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, tag_of
from paddle_sft.models.pdparams import read_pdparams

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PDPARAMS_NAME = "model_state.pdparams"
_BUFFERS = ("rotary_emb.inv_freq",)  # computed from the config, stored by old checkpoints


@dataclass(frozen=True)
class Rename:
    """How one parameter is called and laid out in a Hugging Face folder."""

    paddle: str
    hf: str
    transposed: bool
    """True for linear layers: [out, in] there, [in, out] in Paddle."""


def rename_table(model_class: Any, config: Any) -> Dict[str, Rename]:
    """Paddle name -> its Hugging Face name and layout, from PaddleNLP's own conversion table for the family."""
    table = {}
    for mapping in model_class._get_name_mappings(config):
        if mapping.action not in (None, "transpose"):
            raise ModelError(
                f"{model_class.__name__}: {mapping.target_name} needs {mapping.action}, which is not available yet"
            )
        table[mapping.target_name] = Rename(mapping.target_name, mapping.source_name, mapping.action == "transpose")
    return table


class WeightFolder:
    """All tensors of a model folder: one safetensors file, shards with an index, or a model_state.pdparams.

    Raises:
        ModelError: no weights, a missing shard, a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._arrays: Dict[str, np.ndarray] = {}
        self.files: List[TensorFile] = []
        if (self.folder / INDEX_NAME).is_file():
            self.files = [TensorFile(self.folder / name) for name in self._shard_names()]
        elif (self.folder / WEIGHTS_NAME).is_file():
            self.files = [TensorFile(self.folder / WEIGHTS_NAME)]
        elif (self.folder / PDPARAMS_NAME).is_file():
            self._arrays = read_pdparams(self.folder / PDPARAMS_NAME)
        else:
            self._refuse_without_weights()
        self._file_of = {name: file for file in self.files for name in file.specs}
        self.names = list(self._file_of) + list(self._arrays)

    def _shard_names(self) -> List[str]:
        index = self.folder / INDEX_NAME
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} is not a readable weight index: {error}") from error
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{self.folder}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}"
            )
        return names

    def _refuse_without_weights(self) -> None:
        pickled = sorted(path.name for path in self.folder.glob("*.bin"))
        if pickled:
            raise ModelError(
                f"{self.folder} holds {pickled[0]}, a pickle that may run code when it is read; save the model as "
                "safetensors (in transformers: model.save_pretrained(folder)) and name that folder"
            )
        raise ModelError(f"{self.folder} has no weights: expected {WEIGHTS_NAME}, {INDEX_NAME} or {PDPARAMS_NAME}")

    def spec(self, name: str) -> TensorSpec:
        if name in self._file_of:
            return self._file_of[name].specs[name]
        array = self._arrays[name]
        return TensorSpec(name, tag_of(array), tuple(array.shape))

    def read(self, name: str) -> np.ndarray:
        return self._file_of[name].read(name) if name in self._file_of else self._arrays[name]


class ModelWeights:
    """A model folder's tensors under the names and in the layout of PaddleNLP's state_dict."""

    def __init__(self, folder: Path, renames: Dict[str, Rename]) -> None:
        self.stored = WeightFolder(folder)
        self.is_hugging_face = _looks_like_hugging_face(self.stored, renames)
        self._source: Dict[str, Tuple[str, bool]] = {}
        self.unused: List[str] = []
        by_hf = {rename.hf: rename for rename in renames.values()}
        for name in self.stored.names:
            rename = _find_hf(name, by_hf) if self.is_hugging_face else renames.get(name)
            if rename is not None:
                self._source[rename.paddle] = (name, self.is_hugging_face and rename.transposed)
            elif not name.endswith(_BUFFERS):
                self.unused.append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._source

    @property
    def names(self) -> List[str]:
        """Paddle's names of the weights that are there."""
        return [name for name in self._source if not name.endswith(_BUFFERS)]

    def raw(self, name: str) -> np.ndarray:
        """As it is stored, not transposed; `name` is Paddle's, or one of `unused`."""
        return self.stored.read(self._source[name][0] if name in self._source else name)

    def spec(self, name: str) -> TensorSpec:
        """Paddle's name -> type and shape, in Paddle's layout."""
        source, transposed = self._source[name]
        spec = self.stored.spec(source)
        return TensorSpec(name, spec.tag, spec.shape[::-1] if transposed else spec.shape)

    def read(self, name: str) -> np.ndarray:
        source, transposed = self._source[name]
        array = self.stored.read(source)
        return array.T if transposed else array


def _looks_like_hugging_face(stored: WeightFolder, renames: Dict[str, Rename]) -> bool:
    """Decided by the names; a folder whose names say nothing (none does today) by the writer's format tag."""
    by_hf = {rename.hf: rename for rename in renames.values()}
    as_paddle = sum(name in renames for name in stored.names)
    as_hf = sum(_find_hf(name, by_hf) is not None for name in stored.names)
    if as_paddle != as_hf:
        return as_hf > as_paddle
    return any(file.metadata.get("format") == "pt" for file in stored.files)


def _find_hf(name: str, by_hf: Dict[str, Rename]) -> Optional[Rename]:
    """Also finds tensors saved from the base model alone, without its prefix (old bloom folders)."""
    names = [name] + [f"{prefix}.{name}" for prefix in ("model", "transformer")]
    return next((by_hf[candidate] for candidate in names if candidate in by_hf), None)
