"""The tensors of a model folder, whichever layout it has, under the names of PaddleNLP's state_dict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from paddle_sft.core.atomic import damage_of_file
from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, convert, count_not_finite, numpy_type, tag_of
from paddle_sft.models.part_of import PartOf
from paddle_sft.models.pdparams import read_pdparams
from paddle_sft.models.renames import Piece, Region, RenameTable, region_shape, whole_shape

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PDPARAMS_NAME = "model_state.pdparams"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pdparams", "*.ckpt")
CHECKSUMS = "crc32"
"""Key of the index's "metadata": tensor name -> CRC-32 of its bytes, as in each shard's own header."""
_STRIP = 64
"""Rows that are transposed at a time: 2.1 to 3.4 GB/s; 1,024 at a time thrash the cache, 0.4 GB/s where a row of the
target is a power of two long."""


class WeightFolder:
    """All tensors of a model folder: one safetensors file, shards with an index, or a model_state.pdparams.

    Opening reads headers only, except for the pickle.

    Raises:
        ModelError: no weights, a missing shard, a damaged file, an index that does not fit its shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._arrays: Dict[str, np.ndarray] = {}
        self.files: List[TensorFile] = []
        if (self.folder / INDEX_NAME).is_file():
            self.files = _open_shards(self.folder)
        elif (self.folder / WEIGHTS_NAME).is_file():
            self.files = [TensorFile(self.folder / WEIGHTS_NAME)]
        elif (self.folder / PDPARAMS_NAME).is_file():
            self._arrays = _read_undamaged_pdparams(self.folder)
        else:
            refuse_without_weights(self.folder)
        self._file_of = {name: file for file in self.files for name in file.specs}
        self.names = list(self._file_of) + list(self._arrays)

    @property
    def has_checksums(self) -> bool:
        """Whether every tensor of the folder has one."""
        return bool(self.files) and all(file.checksums.keys() == file.specs.keys() for file in self.files)

    def spec(self, name: str) -> TensorSpec:
        if name in self._file_of:
            return self._file_of[name].specs[name]
        array = self._arrays[name]
        return TensorSpec(name, tag_of(array), tuple(array.shape))

    def read(self, name: str) -> np.ndarray:
        return self._file_of[name].read(name) if name in self._file_of else self._arrays[name]

    def rows(self, name: str, at: Region) -> Iterator[Tuple[int, np.ndarray]]:
        """(first row within the region, rows) of a tensor's region, piece by piece (see `TensorFile.blocks`)."""
        if name in self._arrays:
            yield 0, np.atleast_1d(self._arrays[name][at] if at else self._arrays[name])
            return
        file = self._file_of[name]
        if not at:
            yield from file.blocks(name)
            return
        file.verify(name)
        if isinstance(at[0], int):
            for _, rows in file.blocks(name, at[0], at[0] + 1):
                yield 0, rows[0][at[1:]]
            return
        first, last, _ = at[0].indices(file.specs[name].shape[0])
        for start, rows in file.blocks(name, first, last):
            yield start - first, rows[(slice(None), *at[1:])]

    def release(self, name: str) -> None:
        """Let go of a tensor that a pickle brought into memory; safetensors files hold none."""
        self._arrays.pop(name, None)


def _open_shards(folder: Path) -> List[TensorFile]:
    index = folder / INDEX_NAME
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        file_of: Dict[str, str] = dict(content["weight_map"])
        checksums = dict((content.get("metadata") or {}).get(CHECKSUMS) or {})
        names = sorted(set(file_of.values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not a readable weight index: {error!r}; copy it again") from error
    if outside:
        raise ModelError(f"{index} names {outside[0]!r}, which is no file of its own folder")
    _require_alone(folder, names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}; "
            f"copy or download {'it' if len(missing) == 1 else 'them'} into the folder"
        )
    files = [TensorFile(folder / name) for name in names]
    _require_fitting(index, file_of, checksums, files)
    return files


def _require_alone(folder: Path, shards: Sequence[str]) -> None:
    """Two sets of weights in one folder: one is left from an earlier writing, and nobody can say which."""
    if (folder / WEIGHTS_NAME).is_file() and WEIGHTS_NAME not in shards:
        raise ModelError(
            f"{folder} holds weights twice, as {WEIGHTS_NAME} and as the {len(shards)} shards of {INDEX_NAME}; "
            "move away the one that is older"
        )


def _require_fitting(
    index: Path, file_of: Dict[str, str], checksums: Dict[str, str], files: Sequence[TensorFile]
) -> None:
    problems = []
    for file in files:
        name = file.path.name
        promised = {tensor for tensor, place in file_of.items() if place == name}
        lacking, extra = sorted(promised - file.specs.keys()), sorted(file.specs.keys() - promised)
        twice = [tensor for tensor in extra if tensor in file_of]
        unnamed = [tensor for tensor in extra if tensor not in file_of]
        other = [t for t, crc in file.checksums.items() if t in promised and checksums.get(t, crc) != crc]
        for wrong, tensors in (
            ("lacks", lacking),
            ("holds once more", twice),
            ("holds, unknown to the index,", unnamed),
            ("has by its checksum another version of", other),
        ):
            problems += [f"{name} {wrong} {some(tensors)}"] if tensors else []
        file.checksums.update({tensor: checksums[tensor] for tensor in promised & checksums.keys()})
    if problems:
        raise ModelError(
            f"{index} and its shards don't belong together; copy all of them again from one place:\n  "
            + "\n  ".join(problems)
        )


def _read_undamaged_pdparams(folder: Path) -> Dict[str, np.ndarray]:
    problem = damage_of_file(folder, PDPARAMS_NAME)
    if problem:
        raise ModelError(f"{problem}; copy it again from where it came")
    return read_pdparams(folder / PDPARAMS_NAME)


def refuse_without_weights(folder: Path) -> None:
    """Raise a ModelError that says what was expected, and what is there instead."""
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"{folder} holds {pickled[0]}, a pickle that may run code when it is read; save the model as "
            "safetensors (in transformers: model.save_pretrained(folder)) and name that folder"
        )
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if shards:
        raise ModelError(f"{folder} holds {some(shards)} but no {INDEX_NAME}, which says what is where; add it")
    raise ModelError(f"{folder} has no weights: expected {WEIGHTS_NAME}, {INDEX_NAME} or {PDPARAMS_NAME}")


class ModelWeights:
    """A model folder's tensors under the names and in the layout of PaddleNLP's state_dict."""

    def __init__(self, folder: Path, renames: RenameTable) -> None:
        self.stored = WeightFolder(folder)
        self.renames = renames
        self._buffers = renames.buffers
        self.is_hugging_face = looks_like_hugging_face(self.stored, renames)
        self._source: Dict[str, List[Tuple[str, Piece]]] = {}
        self.unused: List[str] = []
        found: Dict[str, str] = {}
        for name in self.stored.names:
            known = renames.find_hf(name) if self.is_hugging_face else (name if name in renames.of_paddle else None)
            if known is not None:
                found[known] = name
            elif not name.endswith(renames.buffers):
                self.unused.append(name)
        for name in renames.of_paddle:
            if self.is_hugging_face:
                self._source[name] = [(found[piece.hf], piece) for piece in renames.sources(name, found)]
            elif name in found:
                self._source[name] = [(name, Piece(name, name))]
        self._source = {name: sources for name, sources in self._source.items() if sources}
        used = {stored for sources in self._source.values() for stored, _ in sources}
        self.unused += [name for name in found.values() if name not in used]

    def __contains__(self, name: str) -> bool:
        return name in self._source

    @property
    def names(self) -> List[str]:
        """Paddle's names of the weights that are there."""
        return [name for name in self._source if not name.endswith(self._buffers)]

    def raw(self, name: str) -> np.ndarray:
        """As it is stored, not transposed; `name` is Paddle's, or one of `unused`."""
        return self.stored.read(self._source[name][0][0] if name in self._source else name)

    def spec(self, name: str) -> TensorSpec:
        """Paddle's name -> type and shape, in Paddle's layout."""
        regions = []
        for source, piece in self._source[name]:
            shape = region_shape(piece.hf_at, self.stored.spec(source).shape)
            turned = (*shape[:-2], shape[-1], shape[-2]) if piece.transposed and len(shape) > 1 else shape
            regions.append((piece.paddle_at, turned))
        return TensorSpec(name, self._tag(name), whole_shape(regions))

    def ill_sized(self) -> List[str]:
        """What is wrong with tensors of which weights are parts: a part beyond the end, or one that no weight is."""
        pieces: Dict[str, List[Piece]] = {}
        for sources in self._source.values():
            for source, piece in sources:
                pieces.setdefault(source, []).append(piece)
        problems = []
        for source, parts in pieces.items():
            shape = self.stored.spec(source).shape
            needed = whole_shape([(piece.hf_at, region_shape(piece.hf_at, shape)) for piece in parts])
            problems += [f"{source} is {list(shape)}, the config needs {list(needed)}"] if needed != shape else []
        return problems

    def _tag(self, name: str) -> str:
        tags = {self.stored.spec(source).tag for source, _ in self._source[name]}
        if len(tags) > 1:
            raise ModelError(f"{self.stored.folder}: the parts of {name} are stored as {' and '.join(sorted(tags))}")
        return tags.pop()

    def read(self, name: str) -> np.ndarray:
        """The whole tensor in its stored type; a view of the file where it is one there too."""
        (source, piece), *others = self._source[name]
        if not others and piece.is_whole:
            return piece.turned(self.stored.read(source))
        spec = self.spec(name)
        whole = np.empty(spec.shape, numpy_type(spec.tag))
        self.fill(name, whole, spec.tag)
        return whole

    def fill(self, name: str, target: np.ndarray, tag: str) -> str:
        """Copy a tensor into `target`, of its shape and of the type `tag`, some MiB at a time.

        Returns what is wrong with its numbers ("3 NaN"), empty if nothing is.
        """
        nan = infinite = too_large = 0
        for source, piece in self._source[name]:
            region = np.atleast_1d(target[piece.paddle_at] if piece.paddle_at else target)
            region = piece.turned(region) if region.ndim > 1 else region
            stored_tag = self.stored.spec(source).tag
            for start, rows in self.stored.rows(source, piece.hf_at):
                with np.errstate(over="ignore"):
                    converted = convert(rows, stored_tag, tag)
                strip = _STRIP if piece.transposed else len(rows)
                for row in range(0, len(rows), strip):
                    region[start + row : start + min(row + strip, len(rows))] = converted[row : row + strip]
                wrong = count_not_finite(rows, stored_tag)
                nan, infinite = nan + wrong[0], infinite + wrong[1]
                if tag == "F16" != stored_tag:
                    too_large += count_not_finite(converted, tag)[1] - wrong[1]
        counts = ((nan, "NaN"), (infinite, "infinite"), (too_large, "too large for float16, which ends at 65,504"))
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)

    def keep_part(self, name: str, part: PartOf) -> None:
        """Be, from now on, this part of a weight: nothing else of it is read into memory."""
        self._source[name] = [
            (source, kept)
            for source, piece in self._source[name]
            for kept in _pieces_of_part(piece, self.stored.spec(source).shape, part)
        ]

    def release(self, name: str) -> None:
        """Let go of what a pickle brought into memory for a weight."""
        for source, _ in self._source[name]:
            self.stored.release(source)


def _pieces_of_part(piece: Piece, stored: Tuple[int, ...], part: PartOf) -> Iterator[Piece]:
    """A piece cut down to what a part has of it; its place in the target is that in the part."""
    axis, num_axes = part.axis, len(part.shape)
    given = piece.paddle_at[axis] if axis < len(piece.paddle_at) else slice(None)
    begin, end, _ = given.indices(part.shape[axis])
    other = num_axes - 1 - axis if piece.transposed and num_axes == 2 else axis
    hf_at = [*piece.hf_at, *[slice(None)] * (len(stored) - len(piece.hf_at))]
    free = [place for place, at in enumerate(hf_at) if isinstance(at, slice)][other]
    offset = hf_at[free].indices(stored[free])[0] - begin
    start = 0
    for first, last in part.ranges:
        low, high = max(first, begin), min(last, end)
        if low < high:
            target = [*piece.paddle_at, *[slice(None)] * (num_axes - len(piece.paddle_at))]
            target[axis] = slice(start + low - first, start + high - first)
            source = list(hf_at)
            source[free] = slice(offset + low, offset + high)
            yield replace(piece, paddle_at=tuple(target), hf_at=tuple(source))
        start += last - first


def looks_like_hugging_face(stored: WeightFolder, renames: RenameTable) -> bool:
    """Decided by the names; a folder whose names say nothing (none does today) by the writer's format tag."""
    as_paddle = sum(name in renames.of_paddle for name in stored.names)
    as_hf = sum(renames.find_hf(name) is not None for name in stored.names)
    if as_paddle != as_hf:
        return as_hf > as_paddle
    return any(file.metadata.get("format") == "pt" for file in stored.files)


def require_finite(name: str, array: np.ndarray, tag: str) -> None:
    """
    Raises:
        ModelError: a stored floating tensor holds NaN or infinities.
    """
    nan, infinite = count_not_finite(array, tag)
    if nan or infinite:
        raise ModelError(
            f"{name} holds {nan:,} NaN and {infinite:,} infinite of {array.size:,} numbers; go back to an earlier "
            "checkpoint, or copy the model again"
        )


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
