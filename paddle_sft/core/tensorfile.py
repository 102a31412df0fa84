"""Safetensors files, read piece by piece or through a memory map, and written one tensor at a time.

The format is 8 bytes of header length, a JSON header, then the tensors' bytes. The safetensors library holds all
tensors of a file in memory to write it and can't name a bfloat16 array in numpy; merging tensor by tensor needs both.
numpy has no bfloat16: such a tensor is an array of uint16 with the tag BF16, which is how Paddle passes it too.

Files of model weights carry the CRC-32 of every tensor's bytes in the header, under "crc32" of "__metadata__", as JSON:
{"lm_head.weight": "1c291ca3", ...}. Other readers pass over it; this one compares it with what it reads.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import ModelError
from paddle_sft.core.later import is_later, perform

_NUMPY_TYPE = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOAT_TAGS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""The user's word for a floating type -> the tag of the format."""

_HEADER_LIMIT = 100_000_000  # the format's own bound on a header's length, in bytes
_CHECKSUMS = "crc32"
_BLOCK = 1 << 20  # bytes read at a time: large enough for the disk, small beside any model
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class TensorSpec:
    """What a file says of one tensor: `tag` is the format's type name (F32, BF16, ...)."""

    name: str
    tag: str
    shape: Tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * _NUMPY_TYPE[self.tag].itemsize


class TensorFile:
    """One safetensors file. Opening reads and checks the header only.

    Raises:
        ModelError: not a safetensors file, cut short (the message says how many bytes are missing), or a header that
            contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._start, header = _read_header(self.path)
        self.metadata: Dict[str, str] = header.pop("__metadata__", {})
        self._offsets: Dict[str, Tuple[int, int]] = {}
        self.specs: Dict[str, TensorSpec] = {}
        for name, entry in header.items():
            self.specs[name], self._offsets[name] = _read_entry(self.path, name, entry)
        self._check_extent()
        self.checksums: Dict[str, str] = _read_checksums(self.path, self.metadata)
        """Tensor name -> CRC-32 of its bytes, 8 hexadecimal digits; empty for files of other writers."""
        self._verified: set = set()

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    def _check_extent(self) -> None:
        last = 0
        for name, (begin, end) in sorted(self._offsets.items(), key=lambda item: item[1]):
            if end - begin != self.specs[name].num_bytes:
                raise ModelError(
                    f"{self.path}: tensor {name} has {end - begin} bytes, its shape needs "
                    f"{self.specs[name].num_bytes}; the file is damaged"
                )
            if begin != last:
                wrong = "overlaps another" if begin < last else f"leaves {begin - last} bytes before it to nobody"
                raise ModelError(f"{self.path}: tensor {name} {wrong}; the file is damaged")
            last = end
        needed, found = self._start + last, self.num_bytes
        if found != needed:
            wrong = "cut short" if found < needed else "too long"
            raise ModelError(
                f"{self.path} is {wrong}: its header promises {needed:,} bytes, the file has {found:,}; "
                "download or copy it again"
            )

    def read(self, name: str) -> np.ndarray:
        """The tensor as it is stored (a copy-on-write view of the file; BF16 as uint16).

        Raises:
            ModelError: its bytes are not those that were written, where the file has checksums.
        """
        self.verify(name)
        spec = self.specs[name]
        begin, _ = self._offsets[name]
        if spec.num_bytes == 0:
            return np.zeros(spec.shape, _NUMPY_TYPE[spec.tag])
        return np.memmap(self.path, _NUMPY_TYPE[spec.tag], "c", self._start + begin, spec.shape)

    def verify(self, name: str) -> None:
        """Compare a tensor's bytes with its checksum, once; without one there is nothing to compare.

        Raises:
            ModelError: they differ.
        """
        if name in self.checksums and name not in self._verified:
            for _ in self.blocks(name):
                pass

    def blocks(self, name: str, first: int = 0, last: Optional[int] = None) -> Iterator[Tuple[int, np.ndarray]]:
        """(number of the first row, rows) of a tensor, some MiB at a time, rows being along its first axis.

        Every block is written over by the next: memory is one block (or one row, if that is larger), whatever the
        tensor. A tensor without axes has one row. Rows `first` to `last` alone are not compared with a checksum.

        Raises:
            ModelError: the file can't be read, or the tensor's bytes are not those that were written.
        """
        spec = self.specs[name]
        shape = spec.shape or (1,)
        last = shape[0] if last is None else last
        row_bytes = spec.num_bytes // shape[0] if shape[0] else 0
        rows = max(1, min(_BLOCK // max(row_bytes, 1), last - first))
        buffer = np.empty(rows * row_bytes, dtype=np.uint8)
        checksum = 0
        with _opened(self.path) as file:
            file.seek(self._start + self._offsets[name][0] + first * row_bytes)
            for row in range(first, last, rows):
                count = min(rows, last - row)
                block = buffer[: count * row_bytes]
                _fill(block, file, self.path)
                checksum = zlib.crc32(block.data, checksum) if name in self.checksums else 0
                yield row, block.view(_NUMPY_TYPE[spec.tag]).reshape((count, *shape[1:]))
        if (first, last) == (0, shape[0]):
            self._compare(name, checksum)

    def _compare(self, name: str, checksum: int) -> None:
        expected = self.checksums.get(name)
        if expected is not None and expected != f"{checksum:08x}":
            raise ModelError(
                f"{self.path}: tensor {name} was changed after it was written (CRC-32 {checksum:08x}, written with "
                f"{expected}); copy the file again from where it came (if it was changed on purpose, write it without "
                "the old crc32 among its metadata)"
            )
        self._verified.add(name)


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from error


def _fill(block: np.ndarray, file: BinaryIO, path: Path) -> None:
    """Unlike a memory map, reading names a bad disk or a file cut meanwhile; a map ends the process."""
    done = 0
    while done < block.size:
        try:
            count = file.readinto(block[done:].data)
        except OSError as error:
            raise ModelError(f"can't read {path}: {error.strerror}") from error
        if not count:
            raise ModelError(f"{path} became shorter while it was read; copy it again")
        done += count


def why_hollow(path: Path) -> str:
    """Why a file has no content of its own: git left a pointer in its place, or it is empty. Empty text if it has."""
    with open(path, "rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        return (
            f"{path} is a git-lfs pointer: git has fetched the address of the file, not the file; run git lfs pull in "
            "that folder"
        )
    return "" if start else f"{path} is empty, it was cut short at 0 bytes; download or copy it again"


def _read_header(path: Path) -> Tuple[int, dict]:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length) if length <= _HEADER_LIMIT else b""
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_twins)
        if len(raw) != length or not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("incomplete header")
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from error
    except _Twin as error:
        raise ModelError(f"{path}: its header names {error} twice; the file is damaged") from error
    except ValueError as error:
        usual = f"{path} is not a safetensors file or its header is cut short; download or copy it again"
        raise ModelError(why_hollow(path) or usual) from error
    return 8 + length, header


class _Twin(Exception):
    """A key that stands twice in one JSON object."""


def _without_twins(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twin(key)
        found[key] = value
    return found


def _read_checksums(path: Path, metadata: Dict[str, str]) -> Dict[str, str]:
    try:
        found = json.loads(metadata.get(_CHECKSUMS, "{}"))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: the checksums in its header can't be read; the file is damaged") from error
    return found if isinstance(found, dict) else {}


def _read_entry(path: Path, name: str, entry: object) -> Tuple[TensorSpec, Tuple[int, int]]:
    entry = entry if isinstance(entry, dict) else {}
    tag, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(tag, str) and _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise ModelError(f"{path}: the header's entry of {name} can't be read; the file is damaged")
    begin, end = offsets
    if tag not in _NUMPY_TYPE:
        raise ModelError(f"{path}: tensor {name} has type {tag}; known: {', '.join(_NUMPY_TYPE)}")
    return TensorSpec(name, tag, tuple(shape)), (begin, end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def to_float32(array: np.ndarray, tag: str) -> np.ndarray:
    """A stored floating tensor as float32, exactly (bfloat16 and float16 are subsets of it)."""
    if tag == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, dtype=np.float32)


def from_float32(array: np.ndarray, tag: str) -> np.ndarray:
    """Round float32 to the stored type, to nearest, ties to even."""
    if tag != "BF16":
        return np.asarray(array, dtype=_NUMPY_TYPE[tag])
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


_MAGNITUDE_AND_INFINITY = {
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
}
"""Tag -> bits as, mask of all but the sign, the bits of infinity: whatever is larger is NaN."""


def count_not_finite(array: np.ndarray, tag: str) -> Tuple[int, int]:
    """(number of NaN, number of infinities) in a stored floating tensor."""
    kind, mask, infinity = _MAGNITUDE_AND_INFINITY[tag]
    magnitude = array.view(kind) & kind(mask)
    if magnitude.size == 0 or magnitude.max() < infinity:
        return 0, 0
    return int((magnitude > infinity).sum()), int((magnitude == infinity).sum())


def convert(array: np.ndarray, tag: str, to_tag: str) -> np.ndarray:
    """A stored floating tensor in another stored floating type; unchanged (no copy) when the tags are equal."""
    return array if tag == to_tag else from_float32(to_float32(array, tag), to_tag)


def numpy_type(tag: str) -> np.dtype:
    """The type of the array that holds a tensor of a tag (uint16 for BF16)."""
    return _NUMPY_TYPE[tag]


def tag_of(array: np.ndarray) -> str:
    """The tag of an array; uint16 is bfloat16 here, as in Paddle."""
    for tag, dtype in _NUMPY_TYPE.items():
        if array.dtype == dtype:
            return tag
    raise ModelError(f"can't store an array of type {array.dtype}; known: {', '.join(_NUMPY_TYPE)}")


def write_tensors(
    path: Path,
    specs: Sequence[TensorSpec],
    produce: Callable[[TensorSpec], np.ndarray],
    metadata: Optional[Dict[str, str]] = None,
    checksums: bool = False,
) -> Dict[str, str]:
    """Write a safetensors file, asking `produce` for one tensor at a time: memory is one tensor, whatever the file.

    Returns the CRC-32 of every tensor; with `checksums` they stand in the header too. The bytes have reached the disk
    when this returns (fsync). Any error leaves an incomplete file behind: write into a folder that is renamed
    afterwards (core.atomic).

    Within `later.written_later` it asks for all tensors, keeps them as they are given (nobody may change them
    afterwards), and the result is filled in when the file is written.
    """
    found = {spec.name: "0" * 8 for spec in specs}
    if is_later():
        arrays = {spec.name: produce(spec) for spec in specs}
        perform(lambda: _write(path, specs, lambda spec: arrays.pop(spec.name), metadata, found, checksums))
    else:
        _write(path, specs, produce, metadata, found, checksums)
    return found


def _write(
    path: Path,
    specs: Sequence[TensorSpec],
    produce: Callable[[TensorSpec], np.ndarray],
    metadata: Optional[Dict[str, str]],
    found: Dict[str, str],
    checksums: bool,
) -> None:
    raw = _header(specs, metadata, found if checksums else {})
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for spec in specs:
            array = np.ascontiguousarray(produce(spec))
            if array.dtype != _NUMPY_TYPE[spec.tag] or array.size * array.itemsize != spec.num_bytes:
                raise ModelError(f"{spec.name}: announced {spec.tag} {spec.shape}, got {array.dtype} {array.shape}")
            content = array.reshape(-1).view(np.uint8).data if array.size else b""
            found[spec.name] = f"{zlib.crc32(content):08x}"
            file.write(content)
        if checksums:  # as long as the zeros that stand there
            file.seek(8)
            file.write(_header(specs, metadata, found))
        file.flush()
        os.fsync(file.fileno())


def _header(specs: Sequence[TensorSpec], metadata: Optional[Dict[str, str]], checksums: Dict[str, str]) -> bytes:
    metadata = {key: value for key, value in (metadata or {}).items() if key != _CHECKSUMS}  # another file's
    if checksums:
        metadata[_CHECKSUMS] = json.dumps(checksums, ensure_ascii=False)
    header: Dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for spec in specs:
        end = position + spec.num_bytes
        header[spec.name] = {"dtype": spec.tag, "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, ensure_ascii=False).encode("utf-8")
    return raw + b" " * (-len(raw) % 8)  # aligns the first tensor, as the format recommends


def write_arrays(
    path: Path, arrays: Dict[str, np.ndarray], metadata: Optional[Dict[str, str]] = None, checksums: bool = False
) -> None:
    """Write arrays that are in memory already."""
    specs: List[TensorSpec] = [TensorSpec(name, tag_of(array), tuple(array.shape)) for name, array in arrays.items()]
    write_tensors(path, specs, lambda spec: arrays[spec.name], metadata, checksums)
