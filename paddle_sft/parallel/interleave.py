"""What an interleaved pipeline does when, as numbers: fleet's schedule (paddlepaddle 3.3.1), in which every stage holds
several parts of the stack.

Micro-batches go through the parts in groups of as many as there are stages, the first group larger by the remainder.
"""

from __future__ import annotations

from typing import List

from paddle_sft.parallel.topology import Layout


def fewest_micro_batches(layout: Layout) -> int:
    """Of a step; one that has fewer is filled up with empty ones."""
    return layout.pipeline if layout.chunks > 1 else 1


def order_of_parts(layout: Layout, micro_batches: int) -> List[int]:
    """Of which of its parts each forward pass of a stage is; backward passes come in the same order from the last."""
    stages, parts = layout.pipeline, range(layout.chunks)
    widths = [micro_batches % stages + stages] + [stages] * (micro_batches // stages - 1)
    return [part for width in widths for part in parts for _ in range(width)]


def warm_up(layout: Layout, stage: int, micro_batches: int) -> int:
    """Forward passes of a stage before its first turn of one forward and one backward."""
    if layout.chunks == 1:
        return min(layout.pipeline - stage - 1, micro_batches)
    group = micro_batches % layout.pipeline + layout.pipeline
    ahead = 2 * (layout.pipeline - stage - 1) + (layout.chunks - 1) * group
    return min(ahead, layout.chunks * micro_batches)


def parts_in_flight(layout: Layout, stage: int, micro_batches: int) -> int:
    """Forward passes of which the backward pass is still to come, at most."""
    micro_batches = max(micro_batches, fewest_micro_batches(layout))
    return min(warm_up(layout, stage, micro_batches) + 1, layout.chunks * micro_batches)


def bubble(layout: Layout, micro_batches: int) -> float:
    """Share of the time in which a stage waits: (P - 1) / (V M + P - 1) of P stages, V parts, M micro-batches."""
    waiting = layout.pipeline - 1
    return waiting / (layout.chunks * micro_batches + waiting)
