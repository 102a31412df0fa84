"""From the data arguments to samples: the one way through the room."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import Conversation, Sample
from paddle_sft.data.length_policy import LengthReport, apply_length_policy
from paddle_sft.data.own_template import ChosenTemplate, choose_template
from paddle_sft.data.plain_rows import Document
from paddle_sft.data.problems import Problems
from paddle_sft.data.sources import find_sources, read_sources
from paddle_sft.data.store import SampleStore
from paddle_sft.data.tokenize import (
    Draft,
    Specials,
    cut_blocks,
    find_specials,
    tokenize_conversations,
    tokenize_documents,
)
from paddle_sft.data.workers import map_in_chunks


@dataclass(frozen=True)
class SampleSet:
    """The samples of one split, in file order, and what became of the rows."""

    samples: SampleStore
    report: LengthReport
    files: Tuple[Path, ...]
    unused_keys: Tuple[Tuple[str, int], ...]
    """(key, number of rows) of what the rows hold and nobody reads."""
    notes: Tuple[str, ...] = ()
    """Which format the rows have and which template wrote them."""

    def __len__(self) -> int:
        return len(self.samples)

    def lines(self) -> List[str]:
        """The notes, the report's lines, and which keys of the rows were not used."""
        lines = [*self.notes, *self.report.lines()]
        if not self.unused_keys:
            return lines
        keys = ", ".join(f"{key} ({num:,} rows)" for key, num in self.unused_keys[:10])
        more = f" and {len(self.unused_keys) - 10} more" if len(self.unused_keys) > 10 else ""
        return [*lines, f"keys of the rows that are not used: {keys}{more}"]


def build_samples(
    arguments, tokenizer, split: str, stage: str, progress: bool = True, model_folder: Optional[Path] = None
) -> SampleSet:
    """Read, check, tokenise and fit to length the split of `arguments` (DataArguments).

    `split` is train or dev, `stage` sft or pretrain. Every bad line of every file is found before the first is
    tokenised. The same arguments give the same samples, whatever preprocessing_num_workers is. The model's own chat
    template is looked for in `model_folder`.

    Raises:
        DataError: files, lines or rows that can't be used; rows without a trained token; nothing left to train on.
        ArgumentError: an unknown stage, template, data_format, column or length_policy, or a max_length below 2.
    """
    build = choose("stage", stage, _BUILDERS)
    if arguments.max_length < 2:
        raise ArgumentError(f"max_length must be at least 2, got {arguments.max_length}; one token predicts nothing")
    specials = find_specials(tokenizer)
    render = choose_render(arguments, tokenizer, specials, stage, model_folder)
    sources = find_sources(arguments, split)
    found = read_sources(sources, stage, arguments.max_samples)
    samples, report = build(
        found.records, arguments, specials, tokenizer, render, f"tokenising {split}" if progress else None
    )
    files = tuple(path for source in sources for path in source.files)
    notes = (*found.notes, *(render.notes if render else ()))
    return SampleSet(SampleStore.of(samples), report, files, found.unused_keys, notes)


def choose_render(
    arguments, tokenizer, specials: Specials, stage: str, model_folder: Optional[Path] = None
) -> Optional[ChosenTemplate]:
    """The template of the arguments; None in stage pretrain, which trains text as it is."""
    if stage == "pretrain":
        return None
    return choose_template(
        arguments.template,
        tokenizer,
        specials,
        model_folder,
        train_on_prompt=bool(getattr(arguments, "train_on_prompt", False)),
        mask_history=bool(getattr(arguments, "mask_history", False)),
    )


def require_trained(drafts: Sequence[Draft]) -> None:
    """Raises DataError with the places of all drafts of which no token is trained."""
    problems = Problems()
    for draft in drafts:
        if not draft.trained.any():
            problems.add(f"{draft.place}: none of its {len(draft.ids):,} tokens is trained; remove the line")
    problems.raise_any("rows that would train nothing")


def _build_conversations(
    conversations: Sequence[Conversation],
    arguments,
    specials: Specials,
    tokenizer,
    render: ChosenTemplate,
    title: Optional[str],
) -> Tuple[List[Sample], LengthReport]:
    work = partial(tokenize_conversations, render=render, specials=specials, tokenizer=tokenizer)
    num_workers = arguments.preprocessing_num_workers or 1
    drafts = map_in_chunks(work, conversations, num_workers=num_workers, title=title)
    require_trained(drafts)
    return apply_length_policy(
        drafts, arguments.length_policy, src_length=arguments.src_length, max_length=arguments.max_length
    )


def _build_documents(
    documents: Sequence[Document],
    arguments,
    specials: Specials,
    tokenizer,
    render: None,
    title: Optional[str],
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
