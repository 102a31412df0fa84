"""From the data arguments to samples: the one way through the room."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import Conversation, Sample
from paddle_sft.data.formats import Document, read_row
from paddle_sft.data.length_policy import LengthReport, apply_length_policy
from paddle_sft.data.problems import Problems
from paddle_sft.data.source import find_files, read_rows
from paddle_sft.data.template import TEMPLATES
from paddle_sft.data.tokenize import Specials, cut_blocks, find_specials, tokenize_conversations, tokenize_documents
from paddle_sft.data.workers import map_in_chunks


@dataclass(frozen=True)
class SampleSet:
    """The samples of one split, in file order, and what became of the rows."""

    samples: List[Sample]
    report: LengthReport
    files: Tuple[Path, ...]
    unused_keys: Tuple[Tuple[str, int], ...]
    """(key, number of rows) of what the rows hold and nobody reads."""

    def __len__(self) -> int:
        return len(self.samples)

    def lines(self) -> List[str]:
        """The report's lines, and which keys of the rows were not used."""
        if not self.unused_keys:
            return self.report.lines()
        keys = ", ".join(f"{key} ({num:,} rows)" for key, num in self.unused_keys[:10])
        more = f" and {len(self.unused_keys) - 10} more" if len(self.unused_keys) > 10 else ""
        return self.report.lines() + [f"keys of the rows that are not used: {keys}{more}"]


def build_samples(arguments, tokenizer, split: str, stage: str, progress: bool = True) -> SampleSet:
    """Read, check, tokenise and fit to length the split of `arguments` (DataArguments).

    `split` is train or dev, `stage` sft or pretrain. Every bad line of every file is found before the first is
    tokenised. The same arguments give the same samples, whatever preprocessing_num_workers is.

    Raises:
        DataError: files, lines or rows that can't be used; nothing left to train on.
        ArgumentError: an unknown stage, template or length_policy, or a max_length below 2.
    """
    build = choose("stage", stage, _BUILDERS)
    if arguments.max_length < 2:
        raise ArgumentError(f"max_length must be at least 2, got {arguments.max_length}; one token predicts nothing")
    files = find_files(arguments.dataset_name_or_path, split)
    if not files:
        raise DataError(
            f"{arguments.dataset_name_or_path} has no {split} data: looked for {split}.json and {split}/*.json (or "
            ".jsonl) in a folder. Add it, or switch evaluation off."
        )
    records, unused_keys = read_records(files, stage, arguments.max_samples)
    specials = find_specials(tokenizer)
    samples, report = build(records, arguments, specials, tokenizer, f"tokenising {split}" if progress else None)
    return SampleSet(samples, report, tuple(files), unused_keys)


def read_records(
    files: Sequence[Path], stage: str, max_samples: Optional[int] = None
) -> Tuple[list, Tuple[Tuple[str, int], ...]]:
    """Conversations (sft) or Documents (pretrain) of all rows, and the keys that were not used, most frequent first.

    Raises:
        DataError: every bad line and row at once.
    """
    problems = Problems()
    unused: Counter = Counter()
    records = []
    for row, place in read_rows(files, max_samples, problems):
        try:
            record, keys = read_row(row, place, stage)
        except DataError as error:
            problems.add(str(error))
            continue
        records.append(record)
        unused.update(keys)
    folder = files[0].parent if len(files) > 1 else files[0]
    problems.raise_any(str(folder))
    return records, tuple(unused.most_common())


def _build_conversations(
    conversations: Sequence[Conversation], arguments, specials: Specials, tokenizer, title: Optional[str]
) -> Tuple[List[Sample], LengthReport]:
    render = choose("template", arguments.template, TEMPLATES)
    work = partial(tokenize_conversations, render=render, specials=specials, tokenizer=tokenizer)
    num_workers = arguments.preprocessing_num_workers or 1
    drafts = map_in_chunks(work, conversations, num_workers=num_workers, title=title)
    return apply_length_policy(
        drafts, arguments.length_policy, src_length=arguments.src_length, max_length=arguments.max_length
    )


def _build_documents(
    documents: Sequence[Document], arguments, specials: Specials, tokenizer, title: Optional[str]
) -> Tuple[List[Sample], LengthReport]:
    work = partial(tokenize_documents, specials=specials, tokenizer=tokenizer)
    num_workers = arguments.preprocessing_num_workers or 1
    ids: List[np.ndarray] = map_in_chunks(work, documents, num_workers=num_workers, title=title)
    places = [document.place for document in documents]
    samples = cut_blocks(ids, places, arguments.max_length)
    if not samples:
        raise DataError(f"the data has {len(documents)} documents and fewer than 2 tokens; is max_samples 0?")
    longest = max(range(len(ids)), key=lambda index: len(ids[index]))
    report = LengthReport(
        policy=arguments.length_policy,
        src_length=arguments.src_length,
        max_length=arguments.max_length,
        num_rows=len(documents),
        num_samples=len(samples),
        longest=len(ids[longest]),
        longest_place=places[longest],
        tokens_before=sum(len(one) for one in ids),
        tokens_after=sum(len(sample) for sample in samples),
        trained_tokens=sum(sample.num_trained for sample in samples),
        is_blocks=True,
        last_block=len(samples[-1]),
    )
    return samples, report


_BUILDERS = {"sft": _build_conversations, "pretrain": _build_documents}
