"""The loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List


def plot_loss(path: Path, log_history: List[Dict[str, float]], title: str) -> None:
    """Draw training loss and evaluation loss over optimizer steps into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "evaluation", "o-")):
        points = [(entry["step"], entry[key]) for entry in log_history if key in entry and "step" in entry]
        if points:
            axes.plot(*zip(*points), style, label=label, markersize=4)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per trained token (nats)")
    axes.set_title(title, parse_math=False)  # a path may hold dollar signs
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
