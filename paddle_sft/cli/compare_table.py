"""The results of a comparison as text, as a table of a page, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

BASE = "(base)"
"""The row of the model before training."""


class Row(NamedTuple):
    """What came out of one method. None where nobody knows."""

    method: str
    eval_loss: Optional[float] = None
    """Over the dev split after training, nats a token."""
    trainable: Optional[int] = None
    total: Optional[int] = None
    num_bytes: Optional[int] = None
    """Of the weights on the disk: the adapter's, or the model's where every weight is trained."""
    train_seconds: Optional[float] = None
    process_seconds: Optional[float] = None
    """Loading, data and evaluation included."""
    peak_bytes: Optional[int] = None
    """Of the whole process."""
    learning_rate: Optional[float] = None
    num_steps: Optional[int] = None
    problem: str = ""


_COLUMNS: Dict[str, Callable[[Row], str]] = {
    "method": lambda row: row.method,
    "eval loss": lambda row: f"{row.eval_loss:.4f}" if row.eval_loss is not None else "",
    "trainable": lambda row: f"{row.trainable:,}" if row.trainable is not None else "",
    "share": lambda row: f"{row.trainable / row.total:.3%}" if row.trainable is not None and row.total else "",
    "size": lambda row: f"{row.num_bytes / 2**10:,.0f} KiB" if row.num_bytes is not None else "",
    "time": lambda row: f"{row.train_seconds:.0f} s" if row.train_seconds is not None else "",
    "peak memory": lambda row: f"{row.peak_bytes / 2**20:,.0f} MiB" if row.peak_bytes is not None else "",
    "learning rate": lambda row: f"{row.learning_rate:g}" if row.learning_rate is not None else "",
}


def table(rows: Sequence[Row]) -> str:
    """Columns in line, for a terminal; the best first."""
    cells = [list(_COLUMNS), *([show(row) for show in _COLUMNS.values()] for row in ordered(rows))]
    widths = [max(len(line[place]) for line in cells) for place in range(len(_COLUMNS))]
    lines = []
    for line, row in zip(cells, [None, *ordered(rows)]):
        shown = "  ".join(
            text.ljust(width) if not place else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths))
        )
        lines.append(f"{shown}  {row.problem}" if row is not None and row.problem else shown.rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """A table of Markdown; the best first."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for row in ordered(rows):
        cells = [show(row) for show in _COLUMNS.values()]
        if row.problem:
            cells[1] = "not trained: " + row.problem.replace("|", "/")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ordered(rows: Sequence[Row]) -> List[Row]:
    """By evaluation loss, what has none last."""
    return sorted(rows, key=lambda row: (row.eval_loss is None, row.eval_loss or 0.0))


def plot(path: Path, rows: Sequence[Row], title: str) -> None:
    """The evaluation loss of every method and, beside it, its trained share; a line where the base stood."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    base = next((row.eval_loss for row in rows if row.method == BASE), None)
    shown = [row for row in ordered(rows) if row.eval_loss is not None and row.method != BASE][::-1]
    names = [row.method for row in shown]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 1.6 + 0.3 * max(len(shown), 3)), dpi=120, sharey=True)
    _dots(left, names, [row.eval_loss for row in shown], "{:.3f}", "#4c72b0")
    left.set_xlabel("evaluation loss (nats a token)" + ("" if base is None else f"; dashed: the base, {base:.3f}"))
    if base is not None:
        left.axvline(base, color="#c44e52", linestyle="--")
    _dots(right, names, [100.0 * row.trainable / row.total for row in shown], "{:.2g} %", "#55a868")
    right.set_xscale("log")
    right.set_xlabel("trained share of the weights (%)")
    for axes in (left, right):
        axes.margins(x=0.18, y=0.08)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(title, parse_math=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _dots(axes: Any, names: List[str], values: List[float], written: str, color: str) -> None:
    axes.plot(values, names, "o", color=color)
    for name, value in zip(names, values):
        axes.annotate(written.format(value), (value, name), (7, -3), textcoords="offset points", fontsize=8)
