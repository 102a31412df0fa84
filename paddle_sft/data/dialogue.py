"""What chat data can say beyond core's Turn and Conversation: tools, and messages that are kept out of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Tuple

from paddle_sft.core.records import Conversation, Turn

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message(Turn):
    """A turn of any role."""

    trained: bool = True
    """Of an assistant message: whether the loss sees it (`weight` 0 or `train` false in the data: it doesn't)."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What templates read beside role and content: tool_calls, tool_call_id, name, reasoning_content."""


@dataclass(frozen=True)
class Dialogue(Conversation):
    """A conversation with the tools that its system offers, as JSON schemas."""

    tools: Tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class PreferencePair:
    """Two conversations that differ in their answer; a preference stage trains towards `chosen`."""

    chosen: Conversation
    rejected: Conversation
    place: str


@dataclass(frozen=True)
class JudgedConversation:
    """A conversation and whether its last answer is wanted (KTO)."""

    conversation: Conversation
    desirable: bool
    place: str


def is_trained(turn: Turn) -> bool:
    """Whether the loss sees the turn: what the assistant says, unless the data keeps it out."""
    return turn.role == "assistant" and getattr(turn, "trained", True)


def train_last_answer_only(conversation: Conversation) -> Conversation:
    """The same conversation with every answer but the last kept out of the loss (`mask_history`)."""
    answers = [index for index, turn in enumerate(conversation.turns) if turn.role == "assistant"]
    turns = list(conversation.turns)
    for index in answers[:-1]:
        turn = turns[index]
        turns[index] = Message(turn.role, turn.content, False, getattr(turn, "extra", {}))
    return replace(conversation, turns=tuple(turns))


def as_dicts(turns: Tuple[Turn, ...]) -> List[Dict[str, Any]]:
    """The messages as Jinja chat templates read them."""
    return [{"role": turn.role, "content": turn.content, **getattr(turn, "extra", {})} for turn in turns]
