"""The fixed prompts that two models are compared on, as one batch: weights are read once for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import List, Tuple

import numpy as np

from paddle_sft.export.receipt import PROMPTS
from paddle_sft.models.tokenizers import load_tokenizer, require_known_ids

LONGEST = 32  # tokens; 6 prompts of 32 over a vocabulary of 152,064 are 117 MB of logits


def prompt_ids(folder: Path, vocab_size: int) -> Tuple[np.ndarray, List[int]]:
    """(ids [B, T] by the folder's tokenizer, filled at the end; their lengths)."""
    tokenizer = load_tokenizer(folder)
    found = [tokenizer(text)["input_ids"][:LONGEST] for text in PROMPTS]
    require_known_ids(max(max(ids) for ids in found), vocab_size, str(folder))
    batch = np.zeros((len(found), max(len(ids) for ids in found)), dtype=np.int64)
    for row, ids in enumerate(found):
        batch[row, : len(ids)] = ids
    return batch, [len(ids) for ids in found]


def rows_of(logits: np.ndarray, lengths: List[int]) -> List[np.ndarray]:
    """[B, T, V] -> for each prompt [1, its length, V]."""
    return [logits[row : row + 1, :length] for row, length in enumerate(lengths)]
