from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.data.documents import BlockCutter, cut_documents, tokenize_documents
from paddle_sft.data.plain_rows import Document
from paddle_sft.data.store import SampleBlock
from paddle_sft.data.tokenize import find_specials

LINE_OF_TOKEN = [1] * 5 + [2] * 3 + [3] * 4


@pytest.fixture
def documents(tokenizer):
    """Three documents of 5, 3 and 4 tokens."""
    texts = [Document(text, f"line {line}") for line, text in enumerate(["abc", "d", "ef"], start=1)]
    ids = tokenize_documents(texts, find_specials(tokenizer), tokenizer)
    lengths = np.array([len(one) for one in ids])
    return SampleBlock(np.concatenate(ids), np.ones(12, bool), lengths, [one.place for one in texts])


@pytest.fixture
def stream(ids_of):
    return [1, *ids_of("abc"), 2, 1, *ids_of("d"), 2, 1, *ids_of("ef"), 2]


def parts(block, sizes):
    """The block in pieces of `sizes` entries, as chunks bring them."""
    samples = list(block)
    for size in sizes:
        yield SampleBlock.of([samples.pop(0) for _ in range(size)])


@pytest.mark.parametrize("sizes", [(3,), (1, 1, 1), (0, 2, 1)])
@pytest.mark.parametrize("max_length", [2, 3, 4, 5, 11, 12, 100])
def test_blocks_hold_the_documents_end_to_end_however_they_come(documents, stream, max_length, sizes):
    cutter = BlockCutter(max_length)
    blocks = [sample for part in parts(documents, sizes) for sample in cutter.add(part)] + list(cutter.finish())
    assert all(len(block) == max_length for block in blocks[:-1]) and 2 <= len(blocks[-1]) <= max_length
    joined = [token for block in blocks for token in block.ids.tolist()]
    assert joined == stream[: len(stream) - (len(stream) % max_length == 1)]  # a single token left over is no block
    assert all(block.trained.all() for block in blocks)
    for number, block in enumerate(blocks):
        assert block.place == f"line {LINE_OF_TOKEN[number * max_length]}"


@pytest.mark.parametrize(
    "max_length, cuts",
    [
        (2, [(0, 2, "line 1 (part 1 of 2)"), (2, 4, "line 1 (part 2 of 2)"), (5, 7, "line 2"),
             (8, 10, "line 3 (part 1 of 2)"), (10, 12, "line 3 (part 2 of 2)")]),
        (4, [(0, 4, "line 1"), (5, 8, "line 2"), (8, 12, "line 3")]),
        (5, [(0, 5, "line 1"), (5, 8, "line 2"), (8, 12, "line 3")]),
    ],
)  # fmt: skip
def test_documents_by_themselves_are_cut_where_they_are_too_long(documents, stream, max_length, cuts):
    """The single token that is left of lines 1 and 2 is no sample: nothing comes before it."""
    found = [(sample.ids.tolist(), sample.place) for sample in cut_documents(documents, max_length)]
    assert found == [(stream[start:end], place) for start, end, place in cuts]
