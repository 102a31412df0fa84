"""Rows of preference data: pairs (chosen/rejected, PaddleNLP's response/sort) and judged answers (KTO)."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.data.chat_rows import check_dialogue, side_of, tools_of
from paddle_sft.data.dialogue import JudgedConversation, Message, PreferencePair
from paddle_sft.data.row_values import kind_of, list_of, optional_text, require_keys, texts_of


def read_preference(row: dict, place: str) -> PreferencePair:
    """{"prompt", "chosen", "rejected", "system"}: strings or messages. Without a prompt, chosen and rejected are whole
    conversations, and what they begin with in common is the prompt."""
    require_keys(row, ("chosen", "rejected"), place, "preference")
    chosen = side_of(row["chosen"], "chosen", "assistant", place)
    rejected = side_of(row["rejected"], "rejected", "assistant", place)
    system = optional_text(row, "system", place)
    head = [Message("system", system)] if system else []
    if row.get("prompt") is not None:
        head += side_of(row["prompt"], "prompt", "user", place)
    elif isinstance(row["chosen"], str) or isinstance(row["rejected"], str):
        raise DataError(f"{place}: chosen and rejected are strings, so a prompt is needed; write the prompt key")
    else:
        shared = _num_shared(chosen, rejected)
        head += chosen[:shared]
        chosen, rejected = chosen[shared:], rejected[shared:]
    return _pair(head, chosen, rejected, place, tools_of(row, place))


def read_response_sort(row: dict, place: str) -> PreferencePair:
    """PaddleNLP's {"src", "tgt", "response": [a, b], "sort": [1, 0]}: the response with the greater sort is chosen.

    src and tgt are the turns before; src has one entry more than tgt.
    """
    require_keys(row, ("src", "response", "sort"), place, "response_sort")
    sources = texts_of(row, "src", place)
    targets = texts_of(row, "tgt", place) if row.get("tgt") not in (None, "", []) else []
    if len(sources) != len(targets) + 1:
        raise DataError(
            f"{place}: src has {len(sources)} entries and tgt has {len(targets)}; src needs one more, the question "
            "that the responses answer"
        )
    responses, order = texts_of(row, "response", place), list_of(row, "sort", place, "two numbers")
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in order)
    if len(responses) != 2 or len(order) != 2 or not numbers:
        raise DataError(f"{place}: response and sort need two entries each, two strings and two numbers")
    if order[0] == order[1]:
        raise DataError(f"{place}: sort is {order}: neither response is the better one; remove the line")
    system = optional_text(row, "system", place)
    head = [Message("system", system)] if system else []
    for source, target in zip(sources, [*targets, None]):
        head += [Message("user", source)] + ([] if target is None else [Message("assistant", target)])
    answers = [[Message("assistant", response)] for response in responses]
    better = 0 if order[0] > order[1] else 1
    return _pair(head, answers[better], answers[1 - better], place)


def read_kto(row: dict, place: str) -> JudgedConversation:
    """{"prompt", "completion", "label"}: label true, the completion is wanted; false, it is not."""
    require_keys(row, ("prompt", "completion", "label"), place, "kto")
    label = judgement(row["label"])
    if label is None:
        raise DataError(f"{place}: label is {kind_of(row['label'])}; allowed: true (wanted) and false")
    system = optional_text(row, "system", place)
    head = [Message("system", system)] if system else []
    head += side_of(row["prompt"], "prompt", "user", place)
    answer = side_of(row["completion"], "completion", "assistant", place)
    conversation = check_dialogue(_untrained(head) + answer, place, "completion", tools_of(row, place))
    return JudgedConversation(conversation, label, place)


def judgement(value: object) -> Optional[bool]:
    """true, false, 1, 0, or (in a CSV file) the words; None for anything else."""
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    return bool(value) if value in (0, 1) and not isinstance(value, float) else None


def _pair(
    head: List[Message], chosen: List[Message], rejected: List[Message], place: str, tools: Tuple[dict, ...] = ()
) -> PreferencePair:
    if not chosen or not rejected or _texts(chosen) == _texts(rejected):
        raise DataError(f"{place}: chosen and rejected are the same; a preference needs two different answers")
    head = _untrained(head)
    better = check_dialogue(head + chosen, place, "chosen", tools)
    return PreferencePair(better, check_dialogue(head + rejected, place, "rejected", tools), place)


def _untrained(messages: Sequence[Message]) -> List[Message]:
    return [Message(one.role, one.content, False, one.extra) for one in messages]


def _texts(messages: Sequence[Message]) -> List[tuple]:
    return [(one.role, one.content, str(one.extra)) for one in messages]


def _num_shared(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    pairs = zip(_texts(chosen), _texts(rejected))
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)))
