"""From the data arguments to samples: the one way through the room."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.threads import num_cores, ranks_here
from paddle_sft.data.cache import cache_root, read_or_make
from paddle_sft.data.cache_key import describe, key_of, state_of
from paddle_sft.data.fill import Filled, fill_store
from paddle_sft.data.length_report import LengthLimits, LengthReport
from paddle_sft.data.progress import RowBar
from paddle_sft.data.recipe import Recipe, find_recipe
from paddle_sft.data.sources import row_filter
from paddle_sft.data.store import SampleStore, StoreWriter


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
    where: str = "in memory"
    """Where the tokenised samples are."""

    def __len__(self) -> int:
        return len(self.samples)

    def lines(self) -> List[str]:
        """The notes, the report's lines, where the samples are, and which keys of the rows were not used."""
        lines = [*self.notes, *self.report.lines(), f"tokenised samples: {self.where}"]
        if not self.unused_keys:
            return lines
        keys = ", ".join(f"{key} ({num:,} rows)" for key, num in self.unused_keys[:10])
        more = f" and {len(self.unused_keys) - 10} more" if len(self.unused_keys) > 10 else ""
        return [*lines, f"keys of the rows that are not used: {keys}{more}"]


def build_samples(
    arguments, tokenizer, split: str, stage: str, progress: bool = True, model_folder: Optional[Path] = None
) -> SampleSet:
    """Read, check, tokenise and fit to length the split of `arguments` (DataArguments), or take what is kept of it.

    `split` is train or dev, `stage` sft, pretrain or classification. Every bad line of every file is named at once.
    The same arguments give the same samples, whatever preprocessing_num_workers is. `model_folder` is where the
    tokenizer's files and the model's own chat template are; without it nothing is kept between runs.

    Raises:
        DataError: files, lines or rows that can't be used; rows without a trained token; nothing left to train on.
        ArgumentError: an unknown stage, template, data_format, column or length_policy, or a max_length below 2.
    """
    recipe = find_recipe(arguments, tokenizer, split, stage, model_folder)
    title = f"tokenising {split}" if progress else None
    names = [source.name for source in recipe.sources]
    before = _state(recipe)
    root, why_not = _cache_root(arguments, recipe, model_folder)
    key = None if root is None else _key(recipe, arguments, split, Path(model_folder))
    if key is None:
        writer = StoreWriter(None, names)
        num_workers = max(num_cores() // ranks_here(), 1)  # every rank does it
        filled = _fill(recipe, writer, arguments, split, title, num_workers)
        return _sample_set(recipe, writer.finish(), filled, f"in memory{why_not}")

    def fill(writer: StoreWriter) -> Dict[str, Any]:
        filled = _fill(recipe, writer, arguments, split, title, num_cores())
        if _state(recipe) != before:
            raise DataError(f"{recipe.where} was changed while it was read; start again when it is written")
        return asdict(filled)

    kept = read_or_make(root, key, fill, names, bool(getattr(arguments, "overwrite_cache", False)))
    return _sample_set(recipe, kept.samples, _filled(kept.about), kept.where)


def _cache_root(arguments, recipe: Recipe, model_folder: Optional[Path]) -> Tuple[Optional[Path], str]:
    """(the folder of kept samples, why there is none)."""
    if recipe.reads_clock:
        return None, " (the template writes the date, so they are not kept)"
    root = cache_root(getattr(arguments, "data_cache_dir", None))
    return (root if model_folder is not None else None), ""


def _key(recipe: Recipe, arguments, split: str, tokenizer_folder: Path) -> Optional[str]:
    try:
        return key_of(describe(recipe, arguments, split, tokenizer_folder))
    except OSError:  # a file that can't be read: who reads the rows says so, beside all else that is wrong
        return None


def _state(recipe: Recipe) -> Tuple[Tuple[int, int, int], ...]:
    return state_of([path for path in recipe.files if path.exists()])


def _fill(
    recipe: Recipe, writer: StoreWriter, arguments, split: str, title: Optional[str], num_cores_here: int
) -> Filled:
    belongs = row_filter(recipe.sources, arguments, split)
    with RowBar(title, recipe.files, recipe.max_samples) as bar:
        return fill_store(recipe, writer, arguments.preprocessing_num_workers or num_cores_here, bar, belongs)


def _sample_set(recipe: Recipe, samples: SampleStore, filled: Filled, where: str) -> SampleSet:
    return SampleSet(samples, filled.report, recipe.files, filled.unused_keys, (*filled.notes, *recipe.notes), where)


def _filled(about: Dict[str, Any]) -> Filled:
    """What `dataclasses.asdict` and JSON made of it, as it was."""
    report = {**about["report"], "limits": LengthLimits(**about["report"]["limits"])}
    unused = tuple((key, num) for key, num in about["unused_keys"])
    return Filled(LengthReport(**report), unused, tuple(about["notes"]))
