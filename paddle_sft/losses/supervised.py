"""What evaluation measures of next-token training."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Optional

import numpy as np
from paddle import Tensor

from paddle_sft.losses.head import Head, head_statistics, labels_of


class TokenMeter:
    """Adds up what evaluation sees, batch by batch; each metric is over every trained token.

    totals [3] float64: sum of losses, trained tokens, hits. Those of several ranks may be added before they are read.
    """

    def __init__(self, head: Optional[Head] = None) -> None:
        self.totals = np.zeros(3, dtype=np.float64)
        self._head = head

    def add(self, hidden: Tensor, batch: Any) -> None:
        """Hidden states [B, T, H] of a batch of `data.collate`, or [1, N, H] of its trained positions."""
        self.totals += head_statistics(hidden, labels_of(hidden, batch.labels), self._head)

    def metrics(self, num_samples: int) -> Dict[str, float]:
        """loss, perplexity, accuracy, tokens."""
        loss_sum, num_trained, hits = self.totals
        loss = float(loss_sum / num_trained)
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": float(hits / num_trained),
            "tokens": int(num_trained),
        }

    def lines(self, num_samples: int) -> List[str]:
        """Nothing beside the metrics."""
        return []
