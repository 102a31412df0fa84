"""Labels of texts from a classifier."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Sequence

import numpy as np
import paddle
from tqdm import tqdm

from paddle_sft.core.records import Sample
from paddle_sft.data.classes import Classes
from paddle_sft.data.collate import collate
from paddle_sft.data.label_rows import LabelledText


def classify(stage: Any, model: Any, samples: Sequence[Sample], batch_size: int, fill: int) -> np.ndarray:
    """Scores [N, C] float32 of the samples, in order. `stage` is that of classification."""
    model.eval()
    order = sorted(range(len(samples)), key=lambda index: (len(samples[index]), index))
    scores = np.zeros((len(samples), len(model.classes)), dtype=np.float32)
    with paddle.no_grad():
        for start in tqdm(range(0, len(order), batch_size), desc="classifying", leave=False, mininterval=1.0):
            chosen = order[start : start + batch_size]
            batch = collate([samples[index] for index in chosen], fill)
            scores[chosen] = stage.scores(model, batch).astype("float32").numpy()
    return scores


def prediction_rows(
    texts: Sequence[LabelledText], samples: Sequence[Sample], scores: np.ndarray, classes: Classes
) -> List[Dict[str, Any]]:
    """One {"text", "label", "output", "probabilities"} per sample.

    Args:
        texts: what the samples were made of, in the same order; texts that length_policy dropped may stand between.
    """
    rows = []
    left = iter(texts)
    chances, found = classes.probabilities(scores), classes.predict(scores)
    for number, sample in enumerate(samples):
        text = next(text for text in left if (text.place, text.label) == (sample.place, sample.label))
        rows.append(
            {
                "text": text.text,
                "label": json.loads(text.label),
                "output": classes.label_of(found[number]),
                "probabilities": dict(zip(classes.names, chances[number].round(6).tolist())),
            }
        )
    return rows
