"""New special tokens of a run: a tokenizer that has them, and a model with rows for them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional, Sequence

from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.adapters.state import read_if_own
from paddle_sft.cli.report import Report
from paddle_sft.models.hubs import TOKENIZER_FILES
from paddle_sft.models.new_tokens import NewTokens, add_special_tokens
from paddle_sft.models.trained_rows import train_rows
from paddle_sft.models.vocabulary import grow

SECTION = "vocabulary"


class RunTokens:
    """The tokenizer of a run, with the tokens that the user adds, and how far the model's vocabulary has to reach."""

    def __init__(self, source: Path, tokens: Optional[Sequence[str]], resize: bool, report: Report) -> None:
        self.folder = source
        self.new = NewTokens({})
        self._resize = resize
        self._report = report
        if tokens:
            self._kept = TemporaryDirectory(prefix="paddle_sft_tokenizer_")  # removed with this object
            self.folder = Path(self._kept.name)
            self.new = add_special_tokens(source, self.folder, tokens)
            report.add(SECTION, "tokenizer", str(source), "with the new tokens")
        if self.new.there:
            report.add(SECTION, "there already", ", ".join(self.new.there), "special tokens already; unchanged")

    def needed(self, tokenizer: Any) -> int:
        """How many rows the model must have for what this run adds; 0 if nothing."""
        if self._resize:
            return max(tokenizer.get_vocab().values()) + 1
        return self.new.end if self.new.ids else 0

    def grow(self, model: Any, tokenizer: Any, is_trained: bool) -> None:
        """Give the model its new rows, and say so.

        Args:
            is_trained: whether the run trains embedding and LM head.
        """
        before = int(model.config.vocab_size)
        end = self.needed(tokenizer)
        first = self.new.first if self.new.ids else before
        if end <= first:
            return
        grow(model, first, end)
        after = int(model.config.vocab_size)
        if self.new.ids:
            said = ", ".join(f"{token} {index}" for token, index in self.new.ids.items())
            self._report.add(SECTION, "new tokens", said, "token and id")
        size = f"{before:,} -> {after:,}" if after > before else f"{before:,}, unchanged"
        why = f"rows {first:,} to {end - 1:,} set to the mean of the rows before them"
        self._report.add(SECTION, "vocab_size", size, why if after > before else f"spare ones: {why}")
        if not is_trained:
            train_rows(model)
            why = "beside the adapter; all other rows of embedding and LM head stay as they are"
            self._report.add(SECTION, "new rows", "trained", why)


def tokenizer_of_adapter(adapter: Optional[Path]) -> Optional[Path]:
    """The adapter's folder, if it was trained with tokens that its base has not: then its tokenizer is used."""
    saved = read_if_own(adapter) if adapter is not None else None
    return adapter if saved is not None and saved.new_rows is not None else None


def tokenizer_with(saved: SavedAdapter, base: Path) -> Path:
    """The folder of the tokenizer that a base and an adapter need: the adapter's, if it has rows for tokens. Rows for
    tokens that the base has, too, may come without one."""
    rows = saved.new_rows
    has_own = any((saved.folder / name).is_file() for name in TOKENIZER_FILES)
    return saved.folder if rows is not None and (has_own or rows.vocab_size > rows.base_size) else base


def vocab_size_with(adapter: Optional[Path], vocab_size: int) -> int:
    """The base's vocabulary, or what it becomes with an adapter's new rows."""
    saved = read_if_own(adapter) if adapter is not None else None
    return vocab_size if saved is None or saved.new_rows is None else max(vocab_size, saved.new_rows.vocab_size)
