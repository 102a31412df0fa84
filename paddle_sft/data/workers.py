"""The same work on every chunk of a list, in this process or in several, with the same result in the same order."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.log import rank

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_SIZE = 512
"""Items a call: large enough to fill a tokenizer's batch, small enough to move the progress bar and to share out."""

_inherited: Tuple = ()
"""(work, items) of a worker process, set once as it starts. Forked memory, so neither is ever pickled."""


def map_in_chunks(
    work: Callable[[Sequence[Item]], List[Result]],
    items: Sequence[Item],
    *,
    num_workers: int = 1,
    title: Optional[str] = None,
    chunk_size: int = CHUNK_SIZE,
) -> List[Result]:
    """Results of `work` on consecutive chunks, joined in order. `num_workers` > 1 forks that many processes.

    With a `title` there is a progress bar, on rank 0, as soon as the work takes more than a second.

    Raises:
        ArgumentError: several workers on a system that can't fork.
        DataError: a worker process was killed.
    """
    bounds = [(start, min(start + chunk_size, len(items))) for start in range(0, len(items), chunk_size)]
    if num_workers > 1 and len(bounds) > 1:
        chunks = _run_forked(work, items, bounds, num_workers)
    else:
        chunks = (work(items[start:end]) for start, end in bounds)
    results: List[Result] = []
    with _open_bar(len(items), title) as bar:
        for chunk in chunks:
            results.extend(chunk)
            bar.update(len(chunk))
    return results


def _run_forked(work: Callable, items: Sequence, bounds: Sequence[Tuple[int, int]], num_workers: int) -> Iterator[List]:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ArgumentError(
            f"preprocessing_num_workers is {num_workers}, and this system can't fork processes; set it to 1"
        )
    context = multiprocessing.get_context("fork")
    num_workers = min(num_workers, len(bounds))
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_inherit, initargs=(work, items)) as pool:
        try:
            yield from pool.map(_work_on, bounds)
        except BrokenProcessPool:
            raise DataError(
                "a preprocessing worker process was killed, most often for lack of memory; "
                "lower preprocessing_num_workers or max_samples"
            ) from None


def _inherit(work: Callable, items: Sequence) -> None:
    global _inherited
    _inherited = (work, items)


def _work_on(bounds: Tuple[int, int]) -> List:
    work, items = _inherited
    start, end = bounds
    return work(items[start:end])


def _open_bar(total: int, title: Optional[str]):
    from tqdm import tqdm  # lazily, for it is needed here only

    # a terminal is redrawn; a log file gets a line now and then
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=title, delay=1, mininterval=interval, disable=title is None or rank() != 0)
