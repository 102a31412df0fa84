"""Safetensors files, read through a memory map and written one tensor at a time.

The format is 8 bytes of header length, a JSON header, then the tensors' bytes. The safetensors library holds all
tensors of a file in memory to write it and can't name a bfloat16 array in numpy; merging tensor by tensor needs both.
numpy has no bfloat16: such a tensor is an array of uint16 with the tag BF16, which is how Paddle passes it too.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import ModelError

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
    """One safetensors file. Opening reads and checks the header only; `read` touches one tensor's pages.

    Raises:
        ModelError: not a safetensors file, or cut short (the message says how many bytes are missing).
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

    def _check_extent(self) -> None:
        needed = self._start + max((end for _, end in self._offsets.values()), default=0)
        found = self.path.stat().st_size
        if found < needed:
            raise ModelError(
                f"{self.path} is cut short: its header promises {needed:,} bytes, the file has {found:,}; "
                "download or copy it again"
            )
        last = 0
        for name, (begin, end) in sorted(self._offsets.items(), key=lambda item: item[1]):
            if end - begin != self.specs[name].num_bytes:
                raise ModelError(
                    f"{self.path}: tensor {name} has {end - begin} bytes, its shape needs "
                    f"{self.specs[name].num_bytes}; the file is damaged"
                )
            if begin < last:
                raise ModelError(f"{self.path}: tensor {name} overlaps another; the file is damaged")
            last = end

    def read(self, name: str) -> np.ndarray:
        """The tensor as it is stored (a copy-on-write view of the file; BF16 as uint16)."""
        spec = self.specs[name]
        begin, _ = self._offsets[name]
        if spec.num_bytes == 0:
            return np.zeros(spec.shape, _NUMPY_TYPE[spec.tag])
        return np.memmap(self.path, _NUMPY_TYPE[spec.tag], "c", self._start + begin, spec.shape)


def _read_header(path: Path) -> Tuple[int, dict]:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length) if length <= _HEADER_LIMIT else b""
        header = json.loads(raw.decode("utf-8"))
        if len(raw) != length or not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("incomplete header")
    except OSError as error:
        raise ModelError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(
            f"{path} is not a safetensors file or its header is cut short; download or copy it again"
        ) from error
    return 8 + length, header


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


def convert(array: np.ndarray, tag: str, to_tag: str) -> np.ndarray:
    """A stored floating tensor in another stored floating type; unchanged (no copy) when the tags are equal."""
    return array if tag == to_tag else from_float32(to_float32(array, tag), to_tag)


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
) -> None:
    """Write a safetensors file, asking `produce` for one tensor at a time: memory is one tensor, whatever the file.

    The bytes have reached the disk when this returns (fsync). Any error leaves an incomplete file behind: write into
    a folder that is renamed afterwards (core.atomic).
    """
    header: Dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for spec in specs:
        end = position + spec.num_bytes
        header[spec.name] = {"dtype": spec.tag, "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, ensure_ascii=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)  # aligns the first tensor, as the format recommends
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for spec in specs:
            array = np.ascontiguousarray(produce(spec))
            if array.dtype != _NUMPY_TYPE[spec.tag] or array.size * array.itemsize != spec.num_bytes:
                raise ModelError(f"{spec.name}: announced {spec.tag} {spec.shape}, got {array.dtype} {array.shape}")
            file.write(array.reshape(-1).view(np.uint8).data if array.size else b"")
        file.flush()
        os.fsync(file.fileno())


def write_arrays(path: Path, arrays: Dict[str, np.ndarray], metadata: Optional[Dict[str, str]] = None) -> None:
    """Write arrays that are in memory already."""
    specs: List[TensorSpec] = [TensorSpec(name, tag_of(array), tuple(array.shape)) for name, array in arrays.items()]
    write_tensors(path, specs, lambda spec: arrays[spec.name], metadata)
