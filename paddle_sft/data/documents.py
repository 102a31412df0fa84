"""Documents to samples: end to end in blocks, or each by itself."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from paddle_sft.data.plain_rows import Document
from paddle_sft.data.store import SampleBlock
from paddle_sft.data.tokenize import Specials, tokenize_texts


def tokenize_documents(documents: Sequence[Document], specials: Specials, tokenizer) -> List[np.ndarray]:
    """Ids [T] int32 of each document between its begin token (if the tokenizer adds one) and its end token."""
    found = tokenize_texts([document.text for document in documents], tokenizer)
    return [np.array([*specials.bos, *ids, *specials.eos], dtype=np.int32) for ids in found]


def cut_documents(documents: SampleBlock, max_length: int) -> SampleBlock:
    """Each document by itself, cut every `max_length` tokens; a single token left over is no sample."""
    ends = np.cumsum(documents.lengths)
    parts: List[Tuple[int, int, str]] = []
    for start, end, place in zip((ends - documents.lengths).tolist(), ends.tolist(), documents.places):
        cuts = [(first, min(first + max_length, end)) for first in range(start, end - 1, max_length)]
        several = len(cuts) > 1
        parts += [
            (first, last, f"{place} (part {number} of {len(cuts)})" if several else place)
            for number, (first, last) in enumerate(cuts, start=1)
        ]
    ids = [documents.ids[first:last] for first, last, _ in parts]
    return SampleBlock(
        np.concatenate(ids) if ids else documents.ids[:0],
        np.ones(sum(map(len, ids)), dtype=bool),
        np.array([last - first for first, last, _ in parts], dtype=np.int64),
        [place for _, _, place in parts],
    )


class BlockCutter:
    """Joins documents in order and cuts the stream every `max_length` tokens; every token is trained.

    Documents run on from block to block, nothing is padded. The last block is shorter; a single token left over is no
    block, for there is nothing to predict from it (the length report counts it). The place of a block is that of the
    document it begins in.
    """

    def __init__(self, max_length: int, num_skipped: int = 0) -> None:
        """The first `num_skipped` tokens are left out, as if they had gone into blocks before."""
        self._max_length = max_length
        self._num_skipped = num_skipped
        self._ids = np.empty(0, dtype=np.int32)
        self._ends = np.empty(0, dtype=np.int64)
        self._places: List[str] = []

    def add(self, documents: SampleBlock) -> SampleBlock:
        """The blocks that are full now. `documents` has one entry a document."""
        waiting = len(self._ids)
        self._ids = np.concatenate([self._ids, documents.ids])
        self._ends = np.concatenate([self._ends, waiting + np.cumsum(documents.lengths)])
        self._places += documents.places
        skipped = min(self._num_skipped, len(self._ids))
        self._leave_out(skipped)
        self._num_skipped -= skipped
        return self._cut(len(self._ids) // self._max_length)

    def finish(self) -> SampleBlock:
        """What is left, as the last block, if it is one."""
        left = self._cut(1 if len(self._ids) > 1 else 0)
        self._ids, self._ends, self._places = self._ids[:0], self._ends[:0], []
        return left

    def _cut(self, num_blocks: int) -> SampleBlock:
        starts = np.arange(num_blocks, dtype=np.int64) * self._max_length
        used = min(num_blocks * self._max_length, len(self._ids))
        owners = np.searchsorted(self._ends, starts, side="right")
        block = SampleBlock(
            self._ids[:used],
            np.ones(used, dtype=bool),
            np.diff(np.append(starts, used)),
            [self._places[owner] for owner in owners],
        )
        self._leave_out(used)
        return block

    def _leave_out(self, num_tokens: int) -> None:
        done = int(np.searchsorted(self._ends, num_tokens, side="right"))
        self._ids, self._places = self._ids[num_tokens:], self._places[done:]
        self._ends = self._ends[done:] - num_tokens
