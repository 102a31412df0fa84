"""The classes of a classifier: found in the training data, or known to a model that was trained before."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Sample
from paddle_sft.data.problems import Problems

_NUM_SHOWN = 20
Label = Union[str, int]


@dataclass(frozen=True)
class Classes:
    """Names in the order of their ids, and whether a text may belong to several of them (or none)."""

    names: Tuple[str, ...]
    multi_label: bool = False
    known: bool = field(default=False, compare=False)
    """They were a model's before this run: then a whole number that is no name is an id."""

    def __len__(self) -> int:
        return len(self.names)

    def ids_of(self, label: str) -> List[int]:
        """Ids of a sample's label (JSON text).

        Raises:
            KeyError: a label that is no class.
            TypeError: a list where a text has one class, or the other way round.
        """
        content = json.loads(label)
        if isinstance(content, list) != self.multi_label:
            raise TypeError(label)
        return [self._id_of(entry) for entry in (content if self.multi_label else [content])]

    @cached_property
    def _ids(self) -> Dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def _id_of(self, label: Label) -> int:
        if str(label) in self._ids:
            return self._ids[str(label)]
        if self.known and isinstance(label, int) and 0 <= label < len(self.names):
            return label
        raise KeyError(label)

    def targets(self, labels: Sequence[str]) -> np.ndarray:
        """[N] int64 ids; with several labels a text [N, C] float32, 1 where the text belongs to the class."""
        if not self.multi_label:
            return np.array([self.ids_of(label)[0] for label in labels], dtype=np.int64)
        targets = np.zeros((len(labels), len(self)), dtype=np.float32)
        for row, label in enumerate(labels):
            targets[row, self.ids_of(label)] = 1.0
        return targets

    def rows_of(self, targets: np.ndarray) -> np.ndarray:
        """Targets as [N, C] bool."""
        return targets > 0.5 if self.multi_label else np.eye(len(self), dtype=bool)[targets]

    def predict(self, scores: np.ndarray) -> np.ndarray:
        """[N, C] scores -> [N, C] bool: the class with the largest; with several labels those above probability 0.5."""
        return scores > 0 if self.multi_label else np.eye(len(self), dtype=bool)[scores.argmax(axis=1)]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """[N, C] scores -> [N, C] float64: softmax; with several labels the sigmoid of each."""
        scores = scores.astype(np.float64)
        if self.multi_label:
            return 1.0 / (1.0 + np.exp(-np.clip(scores, -700.0, 700.0)))
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def label_of(self, row: np.ndarray) -> Any:
        """A row of `predict` as a row of the data would have it: a name, or a list of names."""
        names = [self.names[index] for index in np.flatnonzero(row)]
        return names if self.multi_label else names[0]

    def require_known(self, samples: Sequence[Sample], split: str) -> None:
        """
        Raises:
            DataError: labels that are none of the classes, or of the other kind, all with their places.
        """
        problems = Problems()
        names = ", ".join(self.names[:_NUM_SHOWN]) + (", ..." if len(self) > _NUM_SHOWN else "")
        whose = "the model's classes" if self.known else "the training data's classes"
        for sample in samples:
            try:
                self.ids_of(sample.label)
            except KeyError as error:
                remedy = "correct it, or add training rows of that class" if not self.known else "correct it"
                problems.add(f"{sample.place}: label {error.args[0]!r} is none of {whose} ({names}); {remedy}")
            except TypeError:
                want = "a list of labels" if self.multi_label else "one label, no list"
                problems.add(f"{sample.place}: label is {sample.label}; {whose} need {want} in each row")
        problems.raise_any(f"{split} data")

    def lines(self, samples: Sequence[Sample]) -> List[str]:
        """What the plan says: the classes in the order of their ids, how many samples each has, and what is odd."""
        counts = Counter(index for sample in samples for index in self.ids_of(sample.label))
        kind = "several labels a text" if self.multi_label else "one label a text"
        shown = [
            f"{index} {name} ({counts[index]:,}, {counts[index] / max(len(samples), 1):.1%})"
            for index, name in enumerate(self.names[:_NUM_SHOWN])
        ]
        more = f" and {len(self) - _NUM_SHOWN} more" if len(self) > _NUM_SHOWN else ""
        lines = [f"{len(self)} classes, {kind}: {', '.join(shown)}{more}"]
        if len(counts) == 1 and not self.multi_label:
            lines.append(f"every sample has the label {self.names[next(iter(counts))]!r}: nothing to tell apart")
        return lines


def find_classes(samples: Sequence[Sample]) -> Classes:
    """The classes of the training data, sorted (as numbers if all are whole numbers): the same for any order of rows.

    Raises:
        DataError: rows with one label beside rows with a list; fewer than two classes where each text has one.
    """
    first: Dict[bool, str] = {}
    names: Dict[str, str] = {}
    for sample in samples:
        content = json.loads(sample.label)
        first.setdefault(isinstance(content, list), sample.place)
        for entry in content if isinstance(content, list) else [content]:
            names.setdefault(str(entry), sample.place)
    if len(first) == 2:
        raise DataError(
            f"the label is a list in {first[True]} and not in {first[False]}; write a list in every row, or in none"
        )
    multi_label = True in first
    if len(names) < 2 - multi_label:
        only = f"every row has the label {next(iter(names))!r}" if names else "no row has a label"
        raise DataError(f"{only}; a classifier needs at least {2 - multi_label} classes: add rows of another class")
    return Classes(tuple(sorted(names, key=_order(names))), multi_label)


def _order(names: Dict[str, str]) -> Any:
    def is_number(name: str) -> bool:
        return name.isascii() and name.lstrip("-").isdigit() and str(int(name)) == name

    return int if all(is_number(name) for name in names) else str
