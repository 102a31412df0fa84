"""Rows of chat data -> Dialogue: messages, ShareGPT conversations, alpaca, prompt/completion.

A dialogue is: at most one system message, first; then a user message; the last message is an assistant's. Anything
else is refused with its place: a template would reject it, or training would see a question without an answer.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any, Dict, List, Optional, Sequence, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.data.dialogue import Dialogue, Message
from paddle_sft.data.row_values import kind_of, list_of, optional_text, require_keys, text_of

ROLE_OF: Dict[str, str] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool", "function": "tool", "ipython": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""The role of every spelling that is read."""

_CALLS = ("function_call", "tool_call")
_EXTRA = ("tool_calls", "tool_call_id", "name", "reasoning_content")
_SPELLINGS = (("role", "content"), ("from", "value"))


def read_messages(row: dict, place: str) -> Dialogue:
    """{"messages": [{"role", "content"}, ...], "tools": [...]}; an assistant message may have `weight` or `train`."""
    return _read_list(row, "messages", place)


def read_sharegpt(row: dict, place: str) -> Dialogue:
    """{"conversations": [{"from", "value"}, ...], "system": text, "tools": [...]}."""
    return _read_list(row, "conversations", place)


def read_alpaca(row: dict, place: str) -> Dialogue:
    """{"instruction", "input", "output", "history": [[question, answer], ...], "system"}.

    The question is instruction and input with a line end between them.
    """
    require_keys(row, ("instruction", "output"), place, "alpaca")
    messages = _system(row, place)
    for index, pair in enumerate(row.get("history") or ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{place}: history[{index}] is {kind_of(pair)}, a list [question, answer] is needed")
        question, answer = (text_of(text, f"history[{index}]", place) for text in pair)
        messages += [Message("user", question), Message("assistant", answer)]
    question = text_of(row["instruction"], "instruction", place, 'write the question, or "" for none')
    addition = optional_text(row, "input", place)
    question = f"{question}\n{addition}" if question and addition else question or addition
    messages += [Message("user", question), Message("assistant", text_of(row["output"], "output", place))]
    return check_dialogue(messages, place, "output")


def read_prompt_completion(row: dict, place: str) -> Dialogue:
    """{"prompt", "completion"}: two strings, or two lists of messages; only the completion is trained."""
    require_keys(row, ("prompt", "completion"), place, "prompt_completion")
    messages = _system(row, place) + side_of(row["prompt"], "prompt", "user", place)
    messages = [Message(one.role, one.content, False, one.extra) for one in messages]
    answer = side_of(row["completion"], "completion", "assistant", place)
    return check_dialogue(messages + answer, place, "completion", tools_of(row, place))


def side_of(value: Any, key: str, role: str, place: str) -> List[Message]:
    """A prompt or an answer: a string said by `role`, a message, or a list of messages."""
    if isinstance(value, str):
        return [Message(role, text_of(value, key, place))]
    items = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise DataError(f"{place}: {key} is {kind_of(value)}, a string or a list of messages is needed")
    if not items:
        raise DataError(f"{place}: {key} is an empty list; write at least one message")
    return [_message(item, f"{key}[{index}]", place) for index, item in enumerate(items)]


def tools_of(row: dict, place: str) -> Tuple[dict, ...]:
    """The row's tools; a string is read as JSON, as ShareGPT data keeps them."""
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = _json(tools, "tools", place) if tools.strip() else None
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{place}: tools is {kind_of(tools)}, a list of objects (JSON schemas) is needed")
    return tuple(tools)


def check_dialogue(messages: Sequence[Message], place: str, key: str, tools: Tuple[dict, ...] = ()) -> Dialogue:
    """The messages as a Dialogue.

    Raises:
        DataError: an order that is no dialogue, an empty answer, or no message that is trained.
    """
    roles = [message.role for message in messages]
    start = 1 if roles[:1] == ["system"] else 0
    if "system" in roles[start:]:
        number = roles.index("system", start) + 1
        raise DataError(f"{place}: message {number} of {key} is the system's; only the first one may be")
    if roles[start : start + 1] != ["user"]:
        first = roles[start] if roles[start:] else "missing"
        raise DataError(
            f"{place}: the first turn of {key} is {first}, user (human) is needed; write it or remove the line"
        )
    if roles[-1] != "assistant":
        raise DataError(
            f"{place}: {key} ends with {roles[-1]}, and an answer is trained; remove the last message or answer it"
        )
    for number, message in enumerate(messages, start=1):
        empty = message.role == "assistant" and not message.content.strip() and not message.extra.get("tool_calls")
        if empty and message.trained:
            raise DataError(
                f"{place}: message {number} of {key} (assistant) is empty; write the answer or remove the line"
            )
        if message.role == "tool" and roles[number - 2] not in ("assistant", "tool"):
            raise DataError(f"{place}: message {number} of {key} is a tool's and follows {roles[number - 2]}")
    if not any(message.trained for message in messages if message.role == "assistant"):
        raise DataError(
            f"{place}: no message of {key} is trained (weight 0 or train false everywhere); remove the line"
        )
    return Dialogue(tuple(messages), place, tools)


def _read_list(row: dict, key: str, place: str) -> Dialogue:
    require_keys(row, (key,), place, key)
    items = list_of(row, key, place, "messages")
    if not items:
        raise DataError(f"{place}: {key} is an empty list; write at least a question and an answer")
    messages = [_message(item, f"{key}[{index}]", place) for index, item in enumerate(items)]
    return check_dialogue(_system(row, place) + messages, place, key, tools_of(row, place))


def _system(row: dict, place: str) -> List[Message]:
    system = optional_text(row, "system", place)
    return [Message("system", system)] if system else []


def _message(item: Any, which: str, place: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f'{place}: {which} is {kind_of(item)}, an object {{"role": ..., "content": ...}} is needed')
    item = {key: value for key, value in item.items() if value is not None}
    role_key, content_key = next((keys for keys in _SPELLINGS if keys[0] in item), _SPELLINGS[0])
    if role_key not in item:
        there = ", ".join(item) or "none"
        raise DataError(f"{place}: {which} has no role (keys: {there}); write role and content, or from and value")
    name = text_of(item[role_key], f"{which}.{role_key}", place)
    if name not in ROLE_OF:
        near = get_close_matches(name, list(ROLE_OF), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ";"
        raise DataError(f"{place}: {which}.{role_key} is {name!r}{hint} allowed: {', '.join(ROLE_OF)}")
    role = ROLE_OF[name]
    extra = {key: item[key] for key in _EXTRA if key in item}
    known = {role_key, content_key, "weight", "train", *_EXTRA}
    for key in item:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{place}: {which} has a key {key!r} that no template reads{hint}; remove it")
    content = _content(item.get(content_key, "" if extra.get("tool_calls") else None), f"{which}.{content_key}", place)
    if name in _CALLS:
        content, extra = "", {**extra, "tool_calls": _calls(content, which, place)}
    return Message(role, content, _is_trained(item, role, which, place), extra)


def _content(value: Any, which: str, place: str) -> str:
    """A string, or the list of text parts that chat services write."""
    if not isinstance(value, list):
        return text_of(value, which, place)
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or "text" not in part:
            raise DataError(f'{place}: {which}[{index}] is no text part; only {{"type": "text", "text": ...}} is read')
    return "".join(text_of(part["text"], f"{which}[{index}].text", place) for index, part in enumerate(value))


def _is_trained(item: dict, role: str, which: str, place: str) -> bool:
    given: Optional[bool] = None
    if "weight" in item:
        if item["weight"] not in (0, 1):
            raise DataError(f"{place}: {which}.weight is {item['weight']!r}; allowed: 0 (not trained) and 1")
        given = bool(item["weight"])
    if "train" in item:
        if not isinstance(item["train"], bool):
            raise DataError(f"{place}: {which}.train is {kind_of(item['train'])}; allowed: true and false")
        if given is not None and given != item["train"]:
            raise DataError(f"{place}: {which} has weight {item['weight']} and train {item['train']}; keep one")
        given = item["train"]
    if given and role != "assistant":
        raise DataError(
            f"{place}: {which} is the {role}'s and marked as trained; only what the assistant says can be. To train "
            "every prompt, set train_on_prompt"
        )
    return True if given is None else given


def _calls(content: str, which: str, place: str) -> List[dict]:
    """ShareGPT's function_call: {"name": ..., "arguments": {...}} as text, or a list of them."""
    value = _json(content, which, place)
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        if not isinstance(call, dict) or "name" not in call or "arguments" not in call:
            raise DataError(f'{place}: {which} is a function call; {{"name": ..., "arguments": {{...}}}} is needed')
    return [{"type": "function", "function": {"name": one["name"], "arguments": one["arguments"]}} for one in calls]


def _json(text: str, which: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {which} is not valid JSON ({error})") from None
