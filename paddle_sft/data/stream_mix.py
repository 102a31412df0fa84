"""Mixing sources that are read while training: nobody knows how large they are, so shares alone can be promised.

The next sample comes from the source that is furthest behind its share, so what was given is never further from a share
than about one sample. Everything here goes on from its `state`, which is JSON.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Sample


class StreamIterator(Protocol):
    """Samples of one source."""

    position: Optional[Dict[str, Any]]
    """JSON values: a place at or before the sample that comes next."""

    def __next__(self) -> Sample: ...


class Stream(Protocol):
    """What is read while training; `data.stream` has it."""

    source_names: Tuple[str, ...]

    def source_samples(
        self, source: int, epoch: int, skip: int = 0, start: Optional[Dict[str, Any]] = None
    ) -> StreamIterator:
        """The samples of one source in an epoch, without the first `skip`; `start` is a position before them."""

    def describe(self) -> Dict[str, Any]:
        """What must be the same on resume."""

    def close(self) -> None:
        """No more is read."""


class SourceReader:
    """One source, again and again."""

    def __init__(self, stream: Stream, source: int) -> None:
        self._stream = stream
        self._source = source
        self.restore({"epoch": 0, "num_samples": 0, "position": None})

    def next(self) -> Optional[Sample]:
        """The next sample of this pass, None at its end."""
        if self._samples is None:
            self._samples = self._stream.source_samples(self._source, self._epoch, self._num_samples, self._position)
        sample = next(self._samples, None)
        self._num_samples += sample is not None
        return sample

    def rewind(self) -> None:
        """Begin the next pass."""
        self.restore({"epoch": self._epoch + 1, "num_samples": 0, "position": None})

    def state(self) -> Dict[str, Any]:
        """Where the next sample is."""
        position = self._position if self._samples is None else self._samples.position
        return {"epoch": self._epoch, "num_samples": self._num_samples, "position": position}

    def close(self) -> None:
        """Let go of what was read ahead."""
        self.restore(self.state())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._epoch, self._num_samples, self._position = state["epoch"], state["num_samples"], state["position"]
        self._samples: Optional[StreamIterator] = None


class StreamMix:
    """Samples of several sources, epoch by epoch.

    Args:
        sources: numbers of the sources of the stream.
        shares: one for each of them, adding up to 1; None reads one source after the other.
        unit: what a share is a share of (arguments.mixing.UNITS).
        repeats: with shares, when a source is at its end: False ends the epoch, and in the next the others go on from
            where they are; True begins the source again, until all were read to their end.
    """

    def __init__(
        self, stream: Stream, sources: Sequence[int], shares: Optional[Sequence[Fraction]], unit: str, repeats: bool
    ) -> None:
        self.sources = list(sources)
        self.shares = None if shares is None else [float(share) for share in shares]
        self.unit = unit
        self.repeats = repeats
        self._names = [stream.source_names[source] for source in sources]
        self._readers = [SourceReader(stream, source) for source in sources]
        self._given = [0] * len(self.sources)
        self._ended: List[int] = []  # sources that came to their end in this epoch

    def take(self) -> Optional[Tuple[int, Sample]]:
        """The next sample and the number of its source; None at the end of an epoch.

        Raises:
            DataError: a source has no sample at all.
        """
        while len(self._ended) < len(self.sources):
            which = self._next_source()
            sample = self._readers[which].next()
            if sample is not None:
                self._given[which] += self._size(sample)
                return self.sources[which], sample
            self._rewind(which)
            if self.shares is not None and not self.repeats:
                break
        self._ended = []
        return None

    def _next_source(self) -> int:
        if self.shares is None:
            return len(self._ended)
        total = sum(self._given) + 1
        behind = [share * total - given for share, given in zip(self.shares, self._given)]
        return behind.index(max(behind))

    def _rewind(self, which: int) -> None:
        reader = self._readers[which]
        if not reader.state()["num_samples"]:
            name = self._names[which]
            raise DataError(f"{name + ': ' if name else ''}the data gives no sample to train on")
        reader.rewind()
        if which not in self._ended:
            self._ended.append(which)

    def _size(self, sample: Sample) -> int:
        return {"samples": 1, "tokens": len(sample), "trained_tokens": sample.num_trained}[self.unit]

    def close(self) -> None:
        """Let go of what was read ahead."""
        for reader in self._readers:
            reader.close()

    def state(self) -> Dict[str, Any]:
        """Where the next sample is."""
        readers = [reader.state() for reader in self._readers]
        return {"readers": readers, "given": list(self._given), "ended": list(self._ended)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for reader, one in zip(self._readers, state["readers"]):
            reader.restore(one)
        self._given, self._ended = list(state["given"]), list(state["ended"])
