"""Loss, perplexity and token accuracy over a set of samples, weighted by trained tokens."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import paddle
from tqdm import tqdm

from paddle_sft.core.log import num_ranks, rank
from paddle_sft.core.records import Sample
from paddle_sft.data.collate import collate
from paddle_sft.losses.supervised import token_statistics


def evaluate_samples(
    forward: Callable[[paddle.Tensor], paddle.Tensor],
    samples: Sequence[Sample],
    rows: int,
    fill: int,
    prefix: str = "eval",
) -> Dict[str, float]:
    """Evaluate over all ranks; each metric is over every trained token, so it doesn't depend on how rows are batched.

    Args:
        forward: input_ids [B, T] -> logits [B, T, V], without gradients.
        rows: samples of one forward pass. They are sorted by length first, which saves padding and changes no sum.
    """
    begin = time.time()
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index]), index))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)][rank() :: num_ranks()]
    totals = np.zeros(3, dtype=np.float64)
    with paddle.no_grad():
        for batch in _with_bar(batches):
            rows_of_batch = collate([samples[index] for index in batch], fill)
            logits = forward(paddle.to_tensor(rows_of_batch.input_ids))
            totals += token_statistics(logits, paddle.to_tensor(rows_of_batch.labels))
    loss_sum, num_trained, hits = _over_ranks(totals)
    loss = loss_sum / num_trained
    seconds = time.time() - begin
    return {
        f"{prefix}_loss": loss,
        f"{prefix}_perplexity": math.exp(min(loss, 700.0)),
        f"{prefix}_accuracy": hits / num_trained,
        f"{prefix}_samples": len(samples),
        f"{prefix}_tokens": int(num_trained),
        f"{prefix}_runtime": round(seconds, 3),
        f"{prefix}_samples_per_second": round(len(samples) / seconds, 3),
    }


def _with_bar(batches: List[List[int]]) -> Any:
    return tqdm(batches, desc="evaluating", leave=False, disable=rank() != 0, mininterval=1.0)


def _over_ranks(totals: np.ndarray) -> np.ndarray:
    if num_ranks() == 1:
        return totals
    tensor = paddle.to_tensor(totals)
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy()
