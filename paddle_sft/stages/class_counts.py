"""How well classes are told apart, from counts that can be added over batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence

import numpy as np

_NUM_SHOWN = 50


@dataclass(frozen=True)
class ClassCounts:
    """For each class (arrays [C] int64) how many samples are of it, were taken for it, and both; and how many samples
    there are and were right as a whole."""

    support: np.ndarray
    predicted: np.ndarray
    hits: np.ndarray
    num_samples: int
    num_right: int
    multi_label: bool

    @property
    def accuracy(self) -> float:
        """Share of samples that are right; with several labels a text, all of them must be."""
        return self.num_right / max(self.num_samples, 1)

    @property
    def precision(self) -> np.ndarray:
        return self.hits / np.maximum(self.predicted, 1)

    @property
    def recall(self) -> np.ndarray:
        return self.hits / np.maximum(self.support, 1)

    @property
    def f1(self) -> np.ndarray:
        """[C]: 2 hits / (support + predicted), 0 for a class that is neither there nor predicted."""
        return 2 * self.hits / np.maximum(self.support + self.predicted, 1)

    @property
    def macro_f1(self) -> float:
        """The mean of the classes' F1 (scikit-learn's f1_score with average="macro"): with one label a text over the
        classes that are there or were predicted, with several over all classes."""
        met = np.full(len(self.f1), True) if self.multi_label else self.support + self.predicted > 0
        return float(self.f1[met].mean()) if met.any() else 0.0

    def table(self, names: Sequence[str]) -> List[str]:
        """One line a class, the most frequent first where there are many."""
        order = list(range(len(names)))
        if len(order) > _NUM_SHOWN:
            order = sorted(order, key=lambda index: (-self.support[index], index))[:_NUM_SHOWN]
        width = max(len(names[index]) for index in order)
        rows = [f"{'class':<{width}}  precision  recall      f1  samples"]
        for index in order:
            rows.append(
                f"{names[index]:<{width}}  {self.precision[index]:9.3f}  {self.recall[index]:6.3f}  "
                f"{self.f1[index]:6.3f}  {self.support[index]:7,}"
            )
        more = len(names) - len(order)
        return rows + ([f"and {more:,} classes with fewer samples"] if more else [])


class ClassMeter:
    """Adds up what evaluation sees, batch by batch. Totals of several ranks may be added before they are read.

    totals [2 + 3 C] float64: sum of losses, samples that are right, then for each class support, predicted, hits.
    """

    def __init__(self, names: Sequence[str], multi_label: bool) -> None:
        self.names = tuple(names)
        self.multi_label = multi_label
        self.totals = np.zeros(2 + 3 * len(self.names), dtype=np.float64)

    def count(self, loss_sum: float, truth: np.ndarray, found: np.ndarray) -> None:
        """truth and found [N, C] bool: which classes each sample is of, and was taken for."""
        counts = [truth.sum(axis=0), found.sum(axis=0), (truth & found).sum(axis=0)]
        self.totals += np.concatenate([[loss_sum, (truth == found).all(axis=1).sum()], *counts])

    def counts(self, num_samples: int) -> ClassCounts:
        support, predicted, hits = self.totals[2:].astype(np.int64).reshape(3, -1)
        return ClassCounts(support, predicted, hits, num_samples, int(self.totals[1]), self.multi_label)

    def metrics(self, num_samples: int) -> dict:
        """loss (mean over samples), accuracy, f1 (macro)."""
        counts = self.counts(num_samples)
        return {
            "loss": float(self.totals[0]) / max(num_samples, 1),
            "accuracy": counts.accuracy,
            "f1": counts.macro_f1,
        }

    def lines(self, num_samples: int) -> List[str]:
        """The table of classes, for the log."""
        return [f"{num_samples:,} samples by class:", *self.counts(num_samples).table(self.names)]
