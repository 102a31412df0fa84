"""Many samples in a few flat arrays, in memory or mapped from files: 5 bytes a token, no Python object a sample.

A folder of a store has one file a column (raw numbers, little-endian as every machine that trains is) and `store.json`
with their number. What is mapped is read from the disk when it is asked for and belongs to the page cache, so ranks on
one machine share it and it doesn't count as memory of the process.
"""

from __future__ import annotations

import io
import json
import operator
import zlib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.atomic import write_json
from paddle_sft.core.log import get_logger
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
_SEEN = ("ids", "trained", "ends", "labels", "label_ends")
"""Columns that training sees."""


@dataclass(frozen=True)
class SampleBlock:
    """Some samples, end to end: the form in which they travel between processes.

    Shapes: ids [T] int32, trained [T] bool, lengths [N] int64 with sum T.
    """

    ids: np.ndarray
    trained: np.ndarray
    lengths: np.ndarray
    places: List[str]
    labels: Sequence[str] = ()
    """One a sample, or none at all."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SampleBlock:
        """The same samples."""
        return cls(
            np.concatenate([np.empty(0, np.int32), *(sample.ids for sample in samples)]),
            np.concatenate([np.empty(0, bool), *(sample.trained for sample in samples)]),
            np.array([len(sample) for sample in samples], dtype=np.int64),
            [sample.place for sample in samples],
            [sample.label for sample in samples] if any(sample.label for sample in samples) else (),
        )

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Sample]:
        ends = np.cumsum(self.lengths).tolist()
        for number, (start, end) in enumerate(zip([0, *ends], ends)):
            label = self.labels[number] if self.labels else ""
            yield Sample(self.ids[start:end], self.trained[start:end], self.places[number], label)

    @property
    def num_trained(self) -> np.ndarray:
        """[N] int64: what `Sample.num_trained` says of each."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        ends = np.cumsum(self.lengths)
        sums = np.append(0, np.cumsum(self.trained))
        first = self.trained[np.minimum(ends - self.lengths, len(self.trained) - 1)]
        counted = sums[ends] - sums[ends - self.lengths] - first
        return np.where([bool(label) for label in self.labels], 1, counted) if self.labels else counted


class SampleStore(Sequence[Sample]):
    """Samples that don't change, in the order they were added. `store[i]` is a view, nothing is copied."""

    def __init__(self, columns: Dict[str, np.ndarray], header: Mapping[str, Any]) -> None:
        for column in columns.values():
            column.flags.writeable = False
        self._columns = columns
        self.source_names: Tuple[str, ...] = tuple(header["source_names"])
        self.largest_id: int = header["largest_id"]
        """The largest id of all samples, 0 of none."""
        self._fingerprint: str = header["fingerprint"]
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
        sources = list(source) or [0] * len(given)
        for number, group in groupby(range(len(given)), key=sources.__getitem__):
            writer.add(SampleBlock.of([given[index] for index in group]), number)
        return writer.finish()

    @classmethod
    def open(cls, folder: Path) -> SampleStore:
        """Map the files of a folder that `StoreWriter` finished.

        Raises:
            OSError, ValueError, KeyError: files that are missing, cut short or no store.
        """
        header = json.loads((Path(folder) / HEADER).read_text(encoding="utf-8"))
        columns = {name: _map(Path(folder) / name, dtype, header["sizes"][name]) for name, dtype in COLUMNS.items()}
        return cls(columns, header)

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

    def fingerprint(self) -> str:
        """Of ids, trained tokens, lengths and labels, that is of what training sees: 8 hexadecimal digits."""
        return self._fingerprint

    @property
    def ids(self) -> np.ndarray:
        """[num_tokens] int32: the ids of all samples, end to end."""
        return self._columns["ids"]

    @property
    def trained(self) -> np.ndarray:
        """[num_tokens] bool: beside `ids`."""
        return self._columns["trained"]


class StoreWriter:
    """Takes samples chunk by chunk; keeps them in files of `folder` (an empty folder), or in memory without one.

    Where the disk is full in the middle it goes on in memory, with what is there already, and says so: `folder` is None
    from then on.
    """

    def __init__(self, folder: Optional[Path], source_names: Sequence[str] = ("",)) -> None:
        self.folder = None if folder is None else Path(folder)
        self.source_names = tuple(source_names)
        self.num_samples = 0
        self._num_tokens = 0
        self._num_bytes = dict.fromkeys(_TEXTS, 0)
        self._crc = dict.fromkeys(COLUMNS, 0)
        self._largest_id = 0
        self._files: Dict[str, IO[bytes]] = {name: self._create(name) for name in COLUMNS}

    def _create(self, name: str) -> IO[bytes]:
        return io.BytesIO() if self.folder is None else open(self.folder / name, "wb", buffering=0)

    def add(self, block: SampleBlock, source: int = 0) -> None:
        """Append samples of one source."""
        if not len(block):
            return
        columns = {
            "ids": block.ids,
            "trained": block.trained,
            "ends": self._num_tokens + np.cumsum(block.lengths),
            "num_trained": block.num_trained,
            "source": np.full(len(block), source),
        }
        texts = {"place": block.places, "label": block.labels or [""] * len(block)}
        written = {name: [text.encode("utf-8") for text in given] for name, given in texts.items()}
        for name, given in written.items():
            columns[f"{name}s"] = np.frombuffer(b"".join(given), dtype=np.uint8)
            columns[f"{name}_ends"] = self._num_bytes[name] + np.cumsum([len(text) for text in given])
        self._write({name: np.ascontiguousarray(columns[name], dtype=dtype) for name, dtype in COLUMNS.items()})
        self.num_samples += len(block)
        self._num_tokens += len(block.ids)
        self._num_bytes = {name: self._num_bytes[name] + sum(map(len, given)) for name, given in written.items()}
        self._largest_id = max(self._largest_id, int(block.ids.max()))

    def _write(self, columns: Dict[str, np.ndarray]) -> None:
        try:
            for name, column in columns.items():
                _write_all(self._files[name], column.data)
        except OSError as error:
            if self.folder is None:
                raise
            self._go_on_in_memory(error)
            for name, column in columns.items():
                self._files[name].write(column.data)
        for name, column in columns.items():
            self._crc[name] = zlib.crc32(column.data, self._crc[name])

    def _go_on_in_memory(self, error: OSError) -> None:
        folder, self.folder = self.folder, None
        get_logger().warning(
            "can't write tokenised samples to %s (%s): the run goes on with them in memory, and the next one tokenises "
            "again",
            folder,
            error.strerror or error,
        )
        for name, size in self._sizes().items():
            self._files[name].close()
            with open(folder / name, "rb") as file:
                content = file.read(size * COLUMNS[name].itemsize)
            self._files[name] = io.BytesIO()
            self._files[name].write(content)
            (folder / name).unlink()  # the room is needed for other things now

    def finish(self) -> SampleStore:
        """The store of all that was added. In a folder its header is written now, so that `SampleStore.open` finds it.

        Raises:
            OSError: the disk is full.
        """
        digest = zlib.crc32("".join(f"{name}{self._crc[name]:08x}" for name in _SEEN).encode("ascii"))
        header = {
            "source_names": list(self.source_names),
            "sizes": self._sizes(),
            "fingerprint": f"{digest:08x}",
            "largest_id": self._largest_id,
        }
        if self.folder is None:
            columns = {
                name: np.frombuffer(self._files[name].getbuffer(), dtype=dtype) for name, dtype in COLUMNS.items()
            }
            return SampleStore(columns, header)
        for file in self._files.values():
            file.close()
        write_json(self.folder / HEADER, header, is_lasting=False)
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


def _write_all(file: IO[bytes], content: memoryview) -> None:
    """An unbuffered file may take less than it is given, when the disk is nearly full."""
    left = content.cast("B") if content.nbytes else content
    while left.nbytes:
        left = left[file.write(left) :]
