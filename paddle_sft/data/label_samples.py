"""Labelled texts to drafts: the text between the tokens that the tokenizer puts around any text, and the label."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

import numpy as np

from paddle_sft.data.label_rows import LabelledText
from paddle_sft.data.tokenize import Draft, tokenize_texts


def find_frame(tokenizer: Any) -> Tuple[List[int], List[int]]:
    """Ids that the tokenizer puts before and behind a text by itself, such as a begin token; so that programs which
    call it plainly (transformers' pipelines do) give the classifier what it was trained on."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    framed = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    return [], []


def tokenize_labelled(records: Sequence[LabelledText], tools: Any) -> List[Draft]:
    """One draft a text, nothing in it trained. `tools.tokenizer` is PaddleNLP's or one that is called like it.

    What stands before the text is the draft's head, which truncation keeps.
    """
    before, behind = find_frame(tools.tokenizer)
    found = tokenize_texts([record.text for record in records], tools.tokenizer)
    start = np.array([len(before)], dtype=np.int32)
    drafts = []
    for record, ids in zip(records, found):
        framed = np.array([*before, *ids, *behind], dtype=np.int32)
        drafts.append(Draft(framed, np.zeros(len(framed), dtype=bool), start, record.place, label=record.label))
    return drafts
