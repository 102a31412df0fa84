"""Answers to the prompts of data, beside the references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from paddle_sft.core.records import Conversation
from paddle_sft.generate.generation import Sampling, generate_texts, prepare


def predict(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    batch_size: int,
    template: str = "default",
    folder: Optional[Path] = None,
) -> List[Dict[str, Any]]:
    """One {"src", "tgt", "output"} per conversation: the model answers the last turn, the reference is its target."""
    asked = [replace(conversation, turns=conversation.turns[:-1]) for conversation in conversations]
    prompts = prepare(asked, tokenizer, template, folder)
    outputs = generate_texts(model, tokenizer, prompts, sampling, batch_size)
    return [
        {"src": _shown(question), "tgt": conversation.turns[-1].content, "output": output}
        for question, conversation, output in zip(asked, conversations, outputs)
    ]


def _shown(question: Conversation) -> Any:
    texts = [turn.content for turn in question.turns]
    return texts[0] if len(texts) == 1 else texts
