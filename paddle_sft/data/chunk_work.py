"""What is done with a chunk of rows, in this process or in a worker: parse, read, write as the template says, tokenise,
fit to length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation
from paddle_sft.data.chunks import Chunk
from paddle_sft.data.documents import cut_documents, tokenize_documents
from paddle_sft.data.formats import Layout, RowReader
from paddle_sft.data.json_rows import RawLine, parse_line
from paddle_sft.data.label_rows import LabelledText
from paddle_sft.data.label_samples import tokenize_labelled
from paddle_sft.data.length_policy import fit_to_length
from paddle_sft.data.length_report import LengthLimits, Tally
from paddle_sft.data.own_template import ChosenTemplate
from paddle_sft.data.plain_rows import Document
from paddle_sft.data.problems import Problems
from paddle_sft.data.store import SampleBlock
from paddle_sft.data.tokenize import DraftBlock, Specials, render_or_note, tokenize_rendered


@dataclass(frozen=True)
class Tools:
    """What turns records into samples."""

    tokenizer: Any
    specials: Specials
    render: Optional[ChosenTemplate]
    """None where no template is used."""
    limits: LengthLimits


@dataclass
class Findings:
    """What was found beside samples. Of chunks, added up in order, it is that of the whole."""

    reading: Problems = field(default_factory=Problems)
    template: Problems = field(default_factory=Problems)
    tally: Tally = field(default_factory=Tally)
    unused: Counter = field(default_factory=Counter)
    """Key of the rows that nobody reads -> number of rows."""
    met: Dict[str, Tuple[int, str]] = field(default_factory=dict)
    """Format -> number of rows, and the place of the first."""

    def extend(self, later: Findings) -> None:
        """Add those of the chunk behind."""
        self.reading.extend(later.reading)
        self.template.extend(later.template)
        self.tally.extend(later.tally)
        self.unused.update(later.unused)
        for name, (num, place) in later.met.items():
            before, first = self.met.get(name, (0, place))
            self.met[name] = (before + num, first)

    def refuse(self, where: str, limits: LengthLimits) -> None:
        """
        Raises:
            DataError: all bad rows; or else all that the template can't write; or all that can't be trained.
        """
        self.reading.raise_any(where)
        self.template.raise_any("the template")
        self.tally.refuse(limits)


Builder = Callable[[Sequence[Any], Tools, Findings], SampleBlock]
"""Records of a chunk -> their samples; counts in findings.tally, notes in findings.template."""


def build_conversations(records: Sequence[Conversation], tools: Tools, findings: Findings) -> SampleBlock:
    """Conversations as the template writes them, each fitted to length."""
    rendered = [render_or_note(record, tools.render, findings.template) for record in records]
    if findings.template.num:
        return SampleBlock.of([])
    drafts = tokenize_rendered(rendered, [record.place for record in records], tools.specials, tools.tokenizer)
    return fit_to_length(drafts, tools.limits, findings.tally)


def build_documents(records: Sequence[Document], tools: Tools, findings: Findings) -> SampleBlock:
    """Whole documents, of any length: `documents.BlockCutter` makes samples of them, which are counted there."""
    found = tokenize_documents(records, tools.specials, tools.tokenizer)
    lengths = np.array([len(ids) for ids in found], dtype=np.int64)
    places = [record.place for record in records]
    findings.tally.read(lengths, places)
    ids = np.concatenate([np.empty(0, dtype=np.int32), *found])
    return SampleBlock(ids, np.ones(len(ids), dtype=bool), lengths, places)


def build_cut_documents(records: Sequence[Document], tools: Tools, findings: Findings) -> SampleBlock:
    """Each document by itself, cut every max_length tokens."""
    documents = build_documents(records, tools, findings)
    long = documents.lengths > tools.limits.max_length
    cut = cut_documents(documents, tools.limits.max_length)
    tally = findings.tally
    tally.counts["num_cut"] += int(long.sum())
    tally.counts["num_pieces"] += len(cut) - int((~long & (documents.lengths > 1)).sum())
    return tally.keep(cut)


def build_labelled(records: Sequence[LabelledText], tools: Tools, findings: Findings) -> SampleBlock:
    """Texts with a label each, fitted to length."""
    return fit_to_length(DraftBlock.of(tokenize_labelled(records, tools)), tools.limits, findings.tally)


@dataclass(frozen=True)
class ChunkWork:
    """Chunk -> (samples, findings), for chunks of one source."""

    build: Builder
    stage: str
    layout: Layout
    tools: Tools
    belongs: Optional[Callable[[dict], bool]] = None
    """Whether a row is of this split; None: all are."""

    def __call__(self, chunk: Chunk) -> Tuple[SampleBlock, Findings]:
        """Once a row is bad nothing is tokenised: the run will be refused."""
        findings = Findings()
        records = self._read(chunk, findings)
        if findings.reading.num:
            return SampleBlock.of([]), findings
        return self.build(records, self.tools, findings), findings

    def check(self, chunk: Chunk) -> Tuple[SampleBlock, Findings]:
        """Only look for bad rows."""
        findings = Findings()
        self._read(chunk, findings)
        return SampleBlock.of([]), findings

    def _read(self, chunk: Chunk, findings: Findings) -> List[Any]:
        reader = RowReader(self.stage, self.layout)
        problems = findings.reading
        records = []
        for item in chunk.items:
            if isinstance(item, str):
                problems.add(item)
                continue
            row, place = parse_line(item, chunk.name, problems) if isinstance(item, RawLine) else item
            if row is None or (self.belongs is not None and not self.belongs(row)):
                continue
            try:
                record, unused = reader.read(row, place)
            except DataError as error:
                problems.add(str(error))
                continue
            records.append(record)
            findings.unused.update(unused)
        findings.met = reader.met
        return records
