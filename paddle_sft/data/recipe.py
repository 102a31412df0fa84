"""Everything that decides what the samples of a split are, found out and checked before the first row is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError
from paddle_sft.data.chunk_work import (
    Builder,
    ChunkWork,
    Tools,
    build_conversations,
    build_cut_documents,
    build_documents,
    build_labelled,
)
from paddle_sft.data.length_policy import POLICIES
from paddle_sft.data.length_report import LengthLimits
from paddle_sft.data.own_template import ChosenTemplate, choose_template
from paddle_sft.data.sources import FoundSource, find_sources
from paddle_sft.data.tokenize import Specials, find_specials

BUILDERS: Dict[str, Builder] = {
    "sft": build_conversations,
    "pretrain": build_cut_documents,
    "classification": build_labelled,
}
"""Stage of a source -> what makes samples of its records."""

TEMPLATED = ("sft",)
"""Stages whose records a template writes; the others train text as it is."""


@dataclass(frozen=True)
class Recipe:
    """The sources of a split, and what is done with their rows."""

    sources: Tuple[FoundSource, ...]
    tools: Tools
    stage: str
    joins_documents: bool
    """Whether documents are joined end to end and cut into blocks, or are samples by themselves."""
    max_samples: Optional[int]
    notes: Tuple[str, ...]
    """About the template, for the plan."""

    @property
    def files(self) -> Tuple[Path, ...]:
        return tuple(path for source in self.sources for path in source.files)

    @property
    def reads_clock(self) -> bool:
        """Whether the same rows give other samples tomorrow."""
        return self.tools.render is not None and self.tools.render.reads_clock

    @property
    def where(self) -> str:
        """What messages about all of the data begin with."""
        return str(self.files[0].parent if len(self.files) > 1 else self.files[0])

    def works(self, belongs: Optional[Callable[[dict], bool]] = None) -> List[ChunkWork]:
        """What is done with a chunk, for each source; `belongs` says whether a row is of this split."""
        return [
            ChunkWork(
                build_documents if self.joins_documents else BUILDERS[source.stage],
                source.stage,
                source.layout,
                self.tools,
                belongs,
            )
            for source in self.sources
        ]


def find_recipe(arguments, tokenizer: Any, split: str, stage: str, model_folder: Optional[Path] = None) -> Recipe:
    """The recipe of `arguments` (DataArguments); see `build.build_samples`.

    Raises:
        ArgumentError: an unknown stage, template, data_format, column or length_policy, or a max_length below 2.
        DataError: no data, or no end token.
    """
    choose("stage", stage, BUILDERS)
    choose("length_policy", arguments.length_policy, POLICIES)
    if arguments.max_length < 2:
        raise ArgumentError(f"max_length must be at least 2, got {arguments.max_length}; one token predicts nothing")
    specials = find_specials(tokenizer)
    render = choose_render(arguments, tokenizer, specials, stage, model_folder)
    limits = LengthLimits(arguments.length_policy, arguments.src_length, arguments.max_length)
    return Recipe(
        tuple(find_sources(arguments, split, stage)),
        Tools(tokenizer, specials, render, limits),
        stage,
        stage == "pretrain" and (getattr(arguments, "packing", None) or "none") == "none",
        arguments.max_samples,
        render.notes if render else (),
    )


def choose_render(
    arguments, tokenizer: Any, specials: Specials, stage: str, model_folder: Optional[Path] = None
) -> Optional[ChosenTemplate]:
    """The template of the arguments; None in a stage that trains text as it is."""
    if stage not in TEMPLATED:
        return None
    return choose_template(
        arguments.template,
        tokenizer,
        specials,
        model_folder,
        train_on_prompt=bool(getattr(arguments, "train_on_prompt", False)),
        mask_history=bool(getattr(arguments, "mask_history", False)),
    )
