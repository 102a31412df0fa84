"""Measure the packers on six distributions of lengths, beside PaddleNLP's packing and best fit in chunks of 1,000.

    python tools/benchmark_packing.py                       # the tables of docs/packing.md, about half a minute
    python tools/benchmark_packing.py --without_paddlenlp   # without importing PaddleNLP
    python tools/benchmark_packing.py --ten_million         # best_fit alone on 10 million lengths: time and memory

A simulation of packing: no model runs. Samples longer than a row are left out beforehand, for every method alike.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_sft.packing.best_fit import place  # noqa: E402
from paddle_sft.packing.certificate import certify  # noqa: E402
from paddle_sft.packing.packers import PACKERS  # noqa: E402

BATCH = 8
"""Samples of a batch that is padded to its longest, for the column that shows what packing is compared with."""
CHUNK = 1000
"""Samples that TRL's packing sees at a time: the batch of datasets.map."""


class Distribution(NamedTuple):
    """Lengths as a user's data might have them; `draw(generator, size)` gives real numbers, rounded down to tokens."""

    name: str
    draw: Callable[[np.random.Generator, int], np.ndarray]
    capacity: int


def short_instructions(generator: np.random.Generator, size: int) -> np.ndarray:
    return generator.lognormal(5.4, 0.9, size)


def single_turns(generator: np.random.Generator, size: int) -> np.ndarray:
    return generator.gamma(5, 20, size)


def long_conversations(generator: np.random.Generator, size: int) -> np.ndarray:
    return generator.lognormal(np.log(900), 0.81, size)


DISTRIBUTIONS = [
    Distribution(name, draw, capacity)
    for name, draw in (("lognormal", short_instructions), ("gamma", single_turns), ("long tail", long_conversations))
    for capacity in (2048, 4096)
]


def lengths_of(distribution: Distribution, num_samples: int, seed: int) -> np.ndarray:
    """Lengths [at most num_samples] int64: those longer than a row are left out."""
    drawn = distribution.draw(np.random.default_rng(seed), num_samples)
    lengths = np.maximum(1, np.floor(drawn)).astype(np.int64)
    return lengths[lengths <= distribution.capacity]


def padded_efficiency(lengths: np.ndarray) -> float:
    """Share of tokens that are not padding when batches of 8, in data order, are padded to their longest."""
    whole = lengths[: lengths.size // BATCH * BATCH].reshape(-1, BATCH)
    return float(whole.sum() / (whole.max(axis=1).sum() * BATCH))


def chunked_best_fit_rows(lengths: np.ndarray, capacity: int) -> int:
    """Rows of best-fit decreasing that sees 1,000 samples at a time, as TRL packs by default."""
    chunks = (lengths[start : start + CHUNK] for start in range(0, lengths.size, CHUNK))
    placements = (place(np.bincount(chunk), capacity) for chunk in chunks)
    return sum(int((steps.first_row + steps.num_rows).max()) for steps in placements)


def load_paddlenlp() -> Optional[Callable[[np.ndarray, int, bool], int]]:
    """A function (lengths, capacity, greedy) -> rows that runs the installed PaddleNLP; None when there is none."""
    try:
        from paddlenlp.datasets import ZeroPaddingMapDataset
    except ImportError:
        return None

    class RowsOnly(ZeroPaddingMapDataset):
        """Its packing without the dense [T, T] mask that it builds for every row, which would not fit this machine."""

        @classmethod
        def _pad_batch_records(cls, batch_records):
            return len(batch_records)

    def rows(lengths: np.ndarray, capacity: int, greedy: bool) -> int:
        records = [{"input_ids": range(length)} for length in lengths.tolist()]
        return len(RowsOnly(records, None, capacity, greedy_zero_padding=greedy).new_data)

    return rows


def methods(capacity: int, seed: int, paddlenlp: Optional[Callable]) -> Dict[str, Callable[[np.ndarray], int]]:
    """Every packing by its column title: lengths -> number of rows."""

    def ours(name: str) -> Callable[[np.ndarray], int]:
        return lambda lengths: len(PACKERS[name](lengths, capacity, seed))

    table: Dict[str, Callable[[np.ndarray], int]] = {}
    if paddlenlp is not None:
        table["PaddleNLP zero_padding"] = lambda lengths: paddlenlp(lengths, capacity, False)
        table["PaddleNLP greedy"] = lambda lengths: paddlenlp(lengths, capacity, True)
    table[f"best fit per {CHUNK:,} (TRL)"] = lambda lengths: chunked_best_fit_rows(lengths, capacity)
    for name in ("sequential", "greedy", "best_fit"):
        table[name] = ours(name)
    return table


def measure(pack: Callable[[np.ndarray], int], lengths: np.ndarray) -> Tuple[int, float, float]:
    """(rows, seconds, peak megabytes beside the lengths). Memory is taken in a second run: tracing slows Python."""
    start = time.perf_counter()
    rows = pack(lengths)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    pack(lengths)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return rows, seconds, peak


def print_tables(num_samples: int, seed: int, paddlenlp: Optional[Callable]) -> None:
    """Token efficiency of every method and distribution, then what each method cost."""
    titles: List[str] = []
    costs: Dict[str, List[Tuple[float, float]]] = {}
    for distribution in DISTRIBUTIONS:
        lengths, capacity = lengths_of(distribution, num_samples, seed), distribution.capacity
        cells = [
            f"{distribution.name} ({lengths.mean():.0f})",
            f"{capacity}",
            f"{100 * padded_efficiency(lengths):.1f}",
        ]
        table = methods(capacity, seed, paddlenlp)
        if not titles:
            titles = ["lengths (mean)", "row", f"padded, batch {BATCH}", *table, "best_fit rows / lower bound", "gap %"]
            print(line(titles), line(["---"] * len(titles)), sep="\n")
        for name, pack in table.items():
            rows, seconds, megabytes = measure(pack, lengths)
            costs.setdefault(name, []).append((seconds, megabytes))
            cells.append(f"{100 * lengths.sum() / (rows * capacity):.2f}")
        certificate = certify(PACKERS["best_fit"](lengths, capacity, seed), lengths, capacity)
        cells += [f"{certificate.num_rows} / {certificate.lower_bound}", f"{100 * certificate.gap:.3f}"]
        print(line(cells), flush=True)
    print()
    print(line(["method", "seconds", "peak MB beside the lengths"]), line(["---"] * 3), sep="\n")
    for name, pairs in costs.items():
        seconds, megabytes = zip(*pairs)
        print(
            line([name, f"{min(seconds):.2f} to {max(seconds):.2f}", f"{min(megabytes):.0f} to {max(megabytes):.0f}"])
        )


def line(cells: List[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def print_ten_million(num_samples: int, seed: int) -> None:
    """Time of best_fit on the hardest of the six and on rows of 131,072, and the most memory this process ever held."""
    import resource

    wide = Distribution("wide lognormal", lambda generator, size: generator.lognormal(8, 1.5, size), 131072)
    for distribution in (DISTRIBUTIONS[4], wide):
        lengths = lengths_of(distribution, num_samples, seed)
        start = time.perf_counter()
        packs = PACKERS["best_fit"](lengths, distribution.capacity, seed)
        packed = time.perf_counter()
        certificate = certify(packs, lengths, distribution.capacity)
        checked = time.perf_counter()
        print(f"{distribution.name}: packed in {packed - start:.1f} s, certified in {checked - packed:.1f} s")
        print(*certificate.lines(), sep="\n")
        del packs, lengths
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process, the lengths included: {kilobytes / 1e6:.2f} GB")


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--num_samples", type=int, help="lengths to draw; default 100,000, or 10 million")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ten_million", "--ten-million", action="store_true", help="best_fit alone, on one core")
    parser.add_argument("--without_paddlenlp", action="store_true", help="leave its columns out")
    arguments = parser.parse_args(argv)
    if arguments.ten_million:
        print_ten_million(arguments.num_samples or 10_000_000, arguments.seed)
        return 0
    paddlenlp = None if arguments.without_paddlenlp else load_paddlenlp()
    if paddlenlp is None and not arguments.without_paddlenlp:
        print("paddlenlp is not installed: its columns are missing", file=sys.stderr)
    print_tables(arguments.num_samples or 100_000, arguments.seed, paddlenlp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
