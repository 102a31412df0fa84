"""A bar for reading and tokenising: rows, rows a second, time left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Optional, Sequence

from paddle_sft.core.log import rank
from paddle_sft.data.chunks import Place

DELAY = 1.0
"""Seconds of work before the bar is shown."""
_LAYOUT = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"


class RowBar:
    """Shown on a terminal, by rank 0, once the work has taken a second; a log file gets no bar.

    How much is left is told from bytes, for nobody has counted the rows; compressed files count when they are done.
    """

    def __init__(self, title: Optional[str], files: Sequence[Path], max_rows: Optional[int] = None) -> None:
        from tqdm import tqdm  # lazily, for it is needed here only

        self._sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
        self._max_rows = max_rows
        self.num_rows = 0
        is_shown = title is not None and rank() == 0 and sys.stderr.isatty()
        self._bar = tqdm(
            total=max(sum(self._sizes), 1), desc=title, delay=DELAY, mininterval=0.2, disable=not is_shown,
            bar_format=_LAYOUT,
        )  # fmt: skip

    def __enter__(self) -> RowBar:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def update(self, num_rows: int, begin: Place, num_files_before: int = 0) -> None:
        """`num_rows` more are done; they began at `begin` of files that `num_files_before` others precede."""
        self.num_rows += num_rows
        done = sum(self._sizes[: num_files_before + begin.file]) + begin.offset
        if self._max_rows:
            done = max(done, int(self._bar.total * min(self.num_rows / self._max_rows, 1)))
        seconds = self._bar.format_dict["elapsed"]
        self._bar.set_postfix_str(f"{self.num_rows:,} rows, {self.num_rows / max(seconds, 1e-9):,.0f}/s", refresh=False)
        self._bar.update(max(done - self._bar.n, 0))
