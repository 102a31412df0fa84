"""Many samples in a few flat arrays, in memory or mapped from files: 5 bytes a token, no Python object a sample.

A folder of a store has one file a column (raw numbers, little-endian as every machine that trains is) and `store.json`
with their number. What is mapped is read from the disk when it is asked for and belongs to the page cache, so ranks on
one machine share it and it doesn't count as memory of the process.
"""

from __future__ import annotations

import io
import json
import operator
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.atomic import write_json
from paddle_sft.core.records import Sample

HEADER = "store.json"
COLUMNS: Dict[str, np.dtype] = {
    "ids": np.dtype("<i4"),
    "trained": np.dtype(bool),
    "ends": np.dtype("<i8"),
    "num_trained": np.dtype("<i4"),
    "source": np.dtype("<u2"),
    "places": np.dtype("u1"),
    "place_ends": np.dtype("<i8"),
    "labels": np.dtype("u1"),
    "label_ends": np.dtype("<i8"),
}
"""ids, trained: one a token; places, labels: UTF-8 bytes; all others one a sample. `ends` are where samples end in
`ids`."""
_TEXTS = ("place", "label")


class SampleStore(Sequence[Sample]):
    """Samples that don't change, in the order they were added. `store[i]` is a view, nothing is copied."""

    def __init__(self, columns: Dict[str, np.ndarray], source_names: Sequence[str] = ("",)) -> None:
        for column in columns.values():
            column.flags.writeable = False
        self._columns = columns
        self.source_names: Tuple[str, ...] = tuple(source_names)
        self.num_trained = columns["num_trained"].astype(np.int64)
        """[N] int64: trained tokens of each sample."""
        self.lengths = np.diff(columns["ends"], prepend=0)
        """[N] int64: tokens of each sample."""
        self.source = columns["source"]
        """[N]: index into source_names of each sample."""

    @classmethod
    def of(
        cls, samples: Iterable[Sample], source: Sequence[int] = (), source_names: Sequence[str] = ("",)
    ) -> SampleStore:
        """Samples in memory as a store; `source` has one number a sample, and is 0 where it is not given."""
        writer = StoreWriter(None, source_names)
        given = list(samples)
        for number, sample in enumerate(given):
            writer.add([sample], source[number] if len(source) else 0)
        return writer.finish()

    @classmethod
    def open(cls, folder: Path) -> SampleStore:
        """Map the files of a folder that `StoreWriter` finished.

        Raises:
            OSError, ValueError, KeyError: files that are missing, cut short or no store.
        """
        header = json.loads((Path(folder) / HEADER).read_text(encoding="utf-8"))
        columns = {name: _map(Path(folder) / name, dtype, header["sizes"][name]) for name, dtype in COLUMNS.items()}
        return cls(columns, header["source_names"])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        """The sample at `index`; slices are not known."""
        number = operator.index(index)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        columns = self._columns
        start = int(columns["ends"][number - 1]) if number else 0
        end = int(columns["ends"][number])
        place, label = self._text("place", number), self._text("label", number)
        return Sample(columns["ids"][start:end], columns["trained"][start:end], place, label)

    def _text(self, name: str, number: int) -> str:
        ends = self._columns[f"{name}_ends"]
        start = int(ends[number - 1]) if number else 0
        return self._columns[f"{name}s"][start : int(ends[number])].tobytes().decode("utf-8")

    @property
    def ids(self) -> np.ndarray:
        """[num_tokens] int32: the ids of all samples, end to end."""
        return self._columns["ids"]

    @property
    def trained(self) -> np.ndarray:
        """[num_tokens] bool: beside `ids`."""
        return self._columns["trained"]

    @property
    def largest_id(self) -> int:
        """The largest id of all samples, 0 of none. Reads all ids once."""
        return int(self.ids.max()) if len(self.ids) else 0


class StoreWriter:
    """Takes samples chunk by chunk; keeps them in files of `folder` (an empty folder), or in memory without one."""

    def __init__(self, folder: Optional[Path], source_names: Sequence[str] = ("",)) -> None:
        self.folder = None if folder is None else Path(folder)
        self.source_names = tuple(source_names)
        self.num_samples = 0
        self._num_tokens = 0
        self._num_bytes = dict.fromkeys(_TEXTS, 0)
        self._files = {name: self._create(name) for name in COLUMNS}

    def _create(self, name: str) -> io.BufferedIOBase:
        return io.BytesIO() if self.folder is None else open(self.folder / name, "wb")

    def add(self, samples: Sequence[Sample], source: int = 0) -> None:
        """Append samples of one source.

        Raises:
            OSError: the disk is full.
        """
        if not samples:
            return
        lengths = np.array([len(sample) for sample in samples], dtype=np.int64)
        columns = {
            "ids": np.concatenate([sample.ids for sample in samples]),
            "trained": np.concatenate([sample.trained for sample in samples]),
            "ends": self._num_tokens + np.cumsum(lengths),
            "num_trained": np.array([sample.num_trained for sample in samples]),
            "source": np.full(len(samples), source),
        }
        for name in _TEXTS:
            columns.update(self._text_columns(name, [getattr(sample, name).encode("utf-8") for sample in samples]))
        for name, column in columns.items():
            self._files[name].write(np.ascontiguousarray(column, dtype=COLUMNS[name]).data)
        self.num_samples += len(samples)
        self._num_tokens += int(lengths.sum())

    def _text_columns(self, name: str, texts: Sequence[bytes]) -> Dict[str, np.ndarray]:
        ends = self._num_bytes[name] + np.cumsum([len(text) for text in texts])
        self._num_bytes[name] = int(ends[-1])
        return {f"{name}s": np.frombuffer(b"".join(texts), dtype=np.uint8), f"{name}_ends": ends}

    def finish(self) -> SampleStore:
        """The store of all that was added. In a folder its header is written now, so that `SampleStore.open` finds it.

        Raises:
            OSError: the disk is full.
        """
        sizes = self._sizes()
        if self.folder is None:
            columns = {
                name: np.frombuffer(self._files[name].getbuffer(), dtype=dtype) for name, dtype in COLUMNS.items()
            }
            return SampleStore(columns, self.source_names)
        for file in self._files.values():
            file.close()
        write_json(self.folder / HEADER, {"source_names": list(self.source_names), "sizes": sizes})
        return SampleStore.open(self.folder)

    def _sizes(self) -> Dict[str, int]:
        per_token = ("ids", "trained")
        sizes = {name: self._num_tokens if name in per_token else self.num_samples for name in COLUMNS}
        return {**sizes, **{f"{name}s": num_bytes for name, num_bytes in self._num_bytes.items()}}


def _map(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    if path.stat().st_size != size * dtype.itemsize:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, {size * dtype.itemsize:,} were written")
    if not size:
        return np.empty(0, dtype=dtype)  # an empty file can't be mapped
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(size,)))
