"""The block that a run prints before it starts: what it will do, and every value the user did not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np

from paddle_sft.arguments.load import Arguments
from paddle_sft.cli.run_data import mixing_lines
from paddle_sft.models.hub import LoadedModel, unique_parameters
from paddle_sft.models.quantised import quantised_linears
from paddle_sft.models.split import part_of
from paddle_sft.parallel.groups import Groups, gather_objects


class Report:
    """Collects sections of (name, value, why) and shows them once."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._sections: Dict[str, List[Tuple[str, Any, str]]] = {}
        self._notes: Dict[str, List[str]] = {}
        self._mixing: List[Dict[str, Any]] = []

    def section(self, title: str, entries: Dict[str, Tuple[Any, str]]) -> None:
        for name, (value, why) in entries.items():
            self.add(title, name, value, why)

    def add(self, title: str, name: str, value: Any, why: str = "") -> None:
        self._sections.setdefault(title, []).append((name, value, why))

    def lines(self, title: str, lines: Iterable[str]) -> None:
        """Add lines of text to a section; none leave it as it is."""
        for line in lines:
            self._notes.setdefault(title, []).append(line)

    def mixing(self, tables: List[Dict[str, Any]]) -> None:
        """What each source gives: printed, and kept for plan.json."""
        self._mixing = tables
        self.lines("mixing, in the first epoch" if len(tables) == 1 else "mixing by stage", mixing_lines(tables))

    def finish(self, loaded: LoadedModel, trainer: Any, resume_from: Optional[Path]) -> Dict[str, Any]:
        """Add what is known only now; returns the numbers for plan.json."""
        total, trainable = count_whole(loaded.model, trainer.team.groups) or count_parameters(loaded.model)
        layout = "Hugging Face" if loaded.is_hugging_face else "Paddle"
        self.add("model", "model", f"{loaded.config['model_type']} from {loaded.place}", f"{layout} layout")
        self.add("model", "parameters", f"{total:,}", "tied weights counted once")
        self.add("model", "trainable", f"{trainable:,}", f"{trainable / total:.2%}")
        numbers: Dict[str, Any] = {"total_parameters": total, "trainable_parameters": trainable}
        if trainer.feed is not None:
            numbers.update(self._training(trainer, resume_from))
        for name, (value, why) in self._arguments.derived.items():
            self.add("derived, or without effect", name, value, why)
        return {**numbers, "derived": {name: list(entry) for name, entry in self._arguments.derived.items()}}

    def _training(self, trainer: Any, resume_from: Optional[Path]) -> Dict[str, Any]:
        feed, args, shape = trainer.feed, trainer.args, trainer.feed.shape
        warmup = args.get_warmup_steps(feed.num_steps)
        add = lambda name, value, why="": self.add("training", name, value, why)  # noqa: E731
        add("stage", trainer.stage.name)
        sizes = feed.sizes()
        if sizes:
            tokens, trained = sizes["num_tokens"], sizes["num_trained_tokens"]
            why = f"{tokens:,} tokens"
            if trainer.stage.name == "classification":
                sizes.pop("num_trained_tokens")  # samples are what is trained
            else:
                why += f", {trained:,} trained ({trained / tokens:.1%})"
            add("samples", f"{sizes['num_samples']:,}", why)
        cut = f"{shape.rows} rows x {shape.accumulation} accumulation x {shape.ranks} ranks"
        add("effective batch", f"{shape.rows_per_step} {feed.unit}", cut)
        why = "the data is read while training, so nobody knows how many an epoch has"
        if sizes:
            why = f"{sizes['steps_per_epoch']:,} an epoch, {feed.num_epochs:.2f} epochs"
        add("steps", f"{feed.num_steps:,}", why)
        add("learning rate", f"{args.learning_rate:g} {args.lr_scheduler_type.value}", f"{warmup} warm-up steps")
        if resume_from is not None:
            add("resuming from", str(resume_from), "the data goes on with the samples not seen yet")
        return {
            **sizes,
            "num_steps": feed.num_steps,
            "effective_batch": shape.rows_per_step,
            "warmup_steps": warmup,
            **({"mixing": self._mixing} if self._mixing else {}),
        }

    def text(self) -> str:
        rows = ["-" * 100]
        width = max(len(name) for entries in self._sections.values() for name, _, _ in entries)
        for title in dict.fromkeys([*self._sections, *self._notes]):
            rows.append(title)
            for name, value, why in self._sections.get(title, []):
                rows.append(f"  {name:<{width}}  {value}" + (f"  ({why})" if why else ""))
            rows += [f"  {line}" for line in self._notes.get(title, [])]
        return "\n".join([*rows, "-" * 100])


def write_lines(path: Path, rows: Iterable[Dict[str, Any]]) -> None:
    """JSON lines, text readable."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def count_parameters(model: Any) -> Tuple[int, int]:
    """(all, trainable) numbers in the model, tied weights once."""
    sizes = [(int(np.prod(p.shape)), not p.stop_gradient) for p in unique_parameters(model).values()]
    codes = sum(layer.in_features * layer.out_features for layer in quantised_linears(model).values())
    return sum(size for size, _ in sizes) + codes, sum(size for size, trained in sizes if trained)


def count_whole(model: Any, groups: Optional[Groups]) -> Optional[Tuple[int, int]]:
    """The same of the whole model, where this rank holds a share; None where it holds all. All ranks call it."""
    if groups is None or not hasattr(model, "share"):
        return None
    here = {
        name: (_whole_size(parameter), not parameter.stop_gradient)
        for name, parameter in unique_parameters(model).items()
    }
    found = {name: one for stage in gather_objects(here, groups.pipeline) for name, one in stage.items()}
    return sum(size for size, _ in found.values()), sum(size for size, trained in found.values() if trained)


def _whole_size(parameter: Any) -> int:
    part = part_of(parameter)
    return int(np.prod(parameter.shape if part is None else part.shape))
