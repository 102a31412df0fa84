"""Metrics over a set of samples, added up batch by batch and over ranks."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Sequence

import paddle
from tqdm import tqdm

from paddle_sft.core.log import get_logger, rank
from paddle_sft.core.records import Sample
from paddle_sft.data.collate import Batch, collate
from paddle_sft.train.team import Team

DevSets = Mapping[str, Sequence[Sample]]
"""Name -> samples. The only dev set of a run has no name."""


def evaluate_sets(
    forward: Callable[[Batch], Any],
    sets: DevSets,
    rows: int,
    fill: int,
    make_meter: Callable[[], Any],
    team: Team,
    prefix: str = "eval",
) -> Dict[str, float]:
    """Evaluate over all ranks; sums are over all samples, so no metric depends on how rows are batched.

    Args:
        forward: a batch -> (what the meter reads, without gradients; the batch it stands for). None for the first on
            a rank that has nothing to measure.
        sets: of each that has a name the metrics are given by themselves, as PREFIX_NAME_loss.
        rows: samples of one forward pass.
        make_meter: makes a fresh one of the stage; its sums become the metrics, its lines go to the log.
    """
    begin = time.time()
    whole = make_meter()
    num_samples = sum(map(len, sets.values()))
    metrics: Dict[str, float] = {}
    for name, samples in sets.items():
        meter = _measure(forward, samples, rows, fill, make_meter, team, f"evaluating {name}".rstrip())
        whole.totals = whole.totals + meter.totals
        if name:
            metrics.update(_named(f"{prefix}_{name}", meter, len(samples)))
    seconds = time.time() - begin
    lines = whole.lines(num_samples)
    if lines and rank() == 0:
        get_logger().info("%s", "\n".join(lines))
    return {
        **_named(prefix, whole, num_samples),
        **metrics,
        f"{prefix}_runtime": round(seconds, 3),
        f"{prefix}_samples_per_second": round(num_samples / seconds, 3),
    }


def _named(prefix: str, meter: Any, num_samples: int) -> Dict[str, float]:
    found = {f"{prefix}_{name}": value for name, value in meter.metrics(num_samples).items()}
    return {**found, f"{prefix}_samples": num_samples}


def _measure(
    forward: Callable, samples: Sequence[Sample], rows: int, fill: int, make_meter: Callable, team: Team, title: str
) -> Any:
    """The meter after all samples, over all ranks. Sorted by length first, which saves padding and changes no sum."""
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index]), index))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)][team.data_rank :: team.num_data]
    meter = make_meter()
    own = len(batches)
    if team.is_in_step:  # the others' passes need this rank's: it goes on with what it has
        rounds = -(-(-(-len(order) // rows)) // team.num_data)
        batches += [batches[0] if batches else order[:1]] * (rounds - own)
    with paddle.no_grad():
        for number, batch in enumerate(_with_bar(batches, title)):
            with team.micro_batch(has_gradients=False):  # the meter reads the head
                found, measured = forward(collate([samples[index] for index in batch], fill))
                if found is not None and number < own:
                    meter.add(found, measured)
    _add_over_ranks(meter, team)
    return meter


def _with_bar(batches: List[List[int]], title: str) -> Any:
    return tqdm(batches, desc=title, leave=False, disable=rank() != 0, mininterval=1.0)


def _add_over_ranks(meter: Any, team: Team) -> None:
    if team.groups is not None:
        totals = paddle.to_tensor(meter.totals if team.reports_loss else 0.0 * meter.totals)
        paddle.distributed.all_reduce(totals)
        meter.totals = totals.numpy()
