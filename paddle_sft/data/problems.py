"""Gathers what is wrong with the data, so that the user hears of every bad line at once and not one line a run."""

from __future__ import annotations

from typing import List, Optional

from paddle_sft.core.errors import DataError

NUM_SHOWN = 20
"""How many problems are written out; the rest are counted. More would scroll the first, most useful ones away."""


class Problems:
    """Counts every problem, keeps the words of the first `num_shown` (None: of all)."""

    def __init__(self, num_shown: Optional[int] = NUM_SHOWN) -> None:
        self.num = 0
        self._num_shown = num_shown
        self._shown: List[str] = []

    @property
    def shown(self) -> List[str]:
        """The words that were kept."""
        return self._shown

    def add(self, problem: str) -> None:
        """Note one problem: place, what is there, what to do."""
        self.num += 1
        if self._num_shown is None or self.num <= self._num_shown:
            self._shown.append(problem)

    def extend(self, others: Problems) -> None:
        """Note what another gathered after this one."""
        room = others.num if self._num_shown is None else max(self._num_shown - len(self._shown), 0)
        self._shown += others.shown[:room]
        self.num += others.num

    def raise_any(self, where: str) -> None:
        """Raise one DataError with all that was noted about `where`, or return if there was nothing."""
        if not self.num:
            return
        noun = "problem" if self.num == 1 else "problems"
        lines = [f"{where}: {self.num:,} {noun}"] + [f"  {problem}" for problem in self._shown]
        if self.num > len(self._shown):
            lines.append(f"  ... and {self.num - len(self._shown):,} more like these")
        raise DataError("\n".join(lines))
