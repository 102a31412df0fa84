"""Answers from a model, one batch of equally long prompts at a time (no padding, so no mask can be wrong)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
from tqdm import tqdm

from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.own_template import choose_template
from paddle_sft.data.tokenize import find_specials, tokenize_conversations
from paddle_sft.models.tokenizers import fill_token, require_known_ids


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the likeliest (do_sample false), or drawn."""

    max_new_tokens: int = 128
    do_sample: bool = False
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Prompts:
    """Conversations that wait for an answer, as ids, and the id that ends one."""

    ids: List[np.ndarray]
    end: int


def prepare(
    prompts: Sequence[Any], tokenizer: Any, template: str = "default", folder: Optional[Path] = None
) -> Prompts:
    """Write the prompts exactly as training writes what stands before an answer.

    Args:
        prompts: texts; lists user, assistant, user, ...; or Conversations.
        template: as in training; "auto" looks for the model's own in `folder`.
    """
    conversations = [_conversation(prompt, f"prompt {number}") for number, prompt in enumerate(prompts, start=1)]
    specials = find_specials(tokenizer)
    chosen = choose_template(template, tokenizer, specials, folder)
    drafts = tokenize_conversations(conversations, chosen, specials, tokenizer)
    end = tokenizer(chosen.end_of_answer, add_special_tokens=False)["input_ids"] if chosen.end_of_answer else []
    return Prompts([draft.ids for draft in drafts], int(end[0]) if len(end) == 1 else int(tokenizer.eos_token_id))


def _conversation(prompt: Any, place: str) -> Conversation:
    if isinstance(prompt, Conversation):
        return prompt
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    return Conversation(tuple(Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)), place)


def prompt_ids(prompts: Sequence[Any], tokenizer: Any) -> List[np.ndarray]:
    """Ids [T] of each prompt under the template "default"."""
    return prepare(prompts, tokenizer).ids


def generate_texts(
    model: Any, tokenizer: Any, prompts: Union[Prompts, Sequence[Any]], sampling: Sampling, batch_size: int
) -> List[str]:
    """The answer to each prompt, in order, without its end token; plain prompts are written by "default"."""
    model.eval()
    prompts = prompts if isinstance(prompts, Prompts) else prepare(prompts, tokenizer)
    ids = prompts.ids
    largest = max((int(row.max()) for row in ids if len(row)), default=0)
    require_known_ids(largest, model.config.vocab_size, "the prompts")
    model.row_layout.clear()
    answers: Dict[int, str] = {}
    bar = tqdm(total=len(ids), desc="generating", unit="prompt", leave=False, mininterval=1.0)
    for batch in _equal_lengths(ids, batch_size):
        tokens = _generate(model, tokenizer, np.stack([ids[index] for index in batch]), sampling, prompts.end)
        for index, row in zip(batch, tokens):
            kept = _until_end(row, (prompts.end, tokenizer.eos_token_id))
            answers[index] = tokenizer.decode(kept, skip_special_tokens=True).strip()
        bar.update(len(batch))
    bar.close()
    return [answers[index] for index in range(len(ids))]


def _generate(model: Any, tokenizer: Any, ids: np.ndarray, sampling: Sampling, end: int) -> np.ndarray:
    """New tokens [B, N] by PaddleNLP's loop."""
    model.row_layout.prompt_lengths = [[ids.shape[1]]] * len(ids)  # also where a row is read again with its answer
    with paddle.no_grad():
        tokens, _ = model.generate(
            paddle.to_tensor(ids.astype("int64")),
            attention_mask=paddle.ones(ids.shape, dtype="int64"),
            decode_strategy="sampling" if sampling.do_sample else "greedy_search",
            max_new_tokens=sampling.max_new_tokens,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            temperature=sampling.temperature,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=end,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=fill_token(tokenizer),
            use_cache=True,
        )
    return tokens.numpy()


def _until_end(row: np.ndarray, ends: Tuple[int, int]) -> List[int]:
    found = np.flatnonzero(np.isin(row, ends))
    return row[: found[0]].tolist() if len(found) else row.tolist()


def _equal_lengths(ids: Sequence[np.ndarray], batch_size: int) -> Iterator[List[int]]:
    order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), index))
    for _, group in groupby(order, key=lambda index: len(ids[index])):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
