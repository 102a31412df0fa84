"""How long samples are: bins, bars for a terminal, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, Sequence, Tuple

NUM_BINS_OF_PICTURE = 60


def length_histogram(lengths: Sequence[int], num_bins: int = 12) -> List[Tuple[int, int, int]]:
    """(from, up to and including, number of samples) of equally wide bins from the shortest to the longest."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = max(-(-(high - low + 1) // num_bins), 1)
    counts = [0] * num_bins
    for length in lengths:
        counts[(length - low) // width] += 1
    bins = [(low + index * width, low + (index + 1) * width - 1, count) for index, count in enumerate(counts)]
    return [one for one in bins if one[0] <= high]


def bars(histogram: Sequence[Tuple[int, int, int]], width: int = 40) -> List[str]:
    """A histogram's bins as lines, the fullest `width` characters wide."""
    most = max((count for _, _, count in histogram), default=0)
    return [
        f"{low:>7,} to {high:>7,}  {'#' * -(-count * width // most) if count else '':<{width}} {count:,}"
        for low, high, count in histogram
    ]


def plot_lengths(path: Path, lengths: Mapping[str, Sequence[int]], max_length: int, title: str) -> None:
    """Draw the lengths of the samples of each split into a PNG, with a line at max_length.

    Raises:
        ValueError: there is no sample at all.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    drawn = {split: found for split, found in lengths.items() if found}
    every = [length for found in drawn.values() for length in found]
    bins = length_histogram(every, NUM_BINS_OF_PICTURE)
    if not bins:
        raise ValueError("no sample has a length to draw")
    edges = [bins[0][0] - 0.5, *(high + 0.5 for _, high, _ in bins)]
    for split, found in drawn.items():
        longer = sum(length > max_length for length in found)
        label = f"{split}: {len(found):,} samples, {longer:,} longer than max_length"
        axes.hist(found, bins=edges, alpha=0.7, label=label)
    axes.axvline(max_length, color="black", linestyle="--", linewidth=1, label=f"max_length {max_length:,}")
    axes.set_xlabel("tokens of a sample, before length_policy")
    axes.set_ylabel("samples")
    axes.set_yscale("symlog", linthresh=10)  # one long sample among a million is seen
    axes.set_ylim(0, 2 * axes.get_ylim()[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_title(title, parse_math=False)  # a path may hold dollar signs
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
