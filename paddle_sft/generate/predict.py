"""Answers to the prompts of data files, beside the references."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from paddle_sft.data.build import read_records
from paddle_sft.generate.generation import Sampling, generate_texts


def predict_files(
    model: Any,
    tokenizer: Any,
    files: Sequence[Path],
    sampling: Sampling,
    batch_size: int,
    max_samples: Optional[int] = None,
) -> List[Dict[str, Any]]:
    """One {"src", "tgt", "output"} per row: the model answers the last turn, the reference is its target."""
    conversations, _ = read_records(files, "sft", max_samples)
    prompts = [[turn.content for turn in conversation.turns[:-1]] for conversation in conversations]
    outputs = generate_texts(model, tokenizer, prompts, sampling, batch_size)
    return [
        {"src": prompt[0] if len(prompt) == 1 else prompt, "tgt": conversation.turns[-1].content, "output": output}
        for prompt, conversation, output in zip(prompts, conversations, outputs)
    ]
