"""Which template a run uses: "default", the model's own ("auto"), a built-in one, or the user's file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import Conversation
from paddle_sft.data.builtin_templates import ANY_FAMILY, BUILT_IN, SINGLE_TOKENS
from paddle_sft.data.chat_template import ChatTemplate, ChatTokens
from paddle_sft.data.dialogue import train_last_answer_only
from paddle_sft.data.joint import find_special_tokens
from paddle_sft.data.part_template import PartTemplate
from paddle_sft.data.template import TEMPLATES, Render, Rendered, train_prompts
from paddle_sft.data.tokenize import Specials

CONFIG, JINJA, PARTS = "tokenizer_config.json", "chat_template.jinja", "chat_template.json"
"""Files of a model folder that may hold its template; PARTS is PaddleNLP's, or Hugging Face's for its processors."""

Source = Union[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ChosenTemplate:
    """A template ready to write conversations. `notes` are for the start-up plan."""

    name: str
    render: Render
    notes: Tuple[str, ...] = ()
    end_of_answer: str = ""
    """Text that ends an answer; generation stops there, too. "" for the tokenizer's end token."""
    reads_clock: bool = False
    """Whether it may write the date."""

    def __call__(self, conversation: Conversation) -> Rendered:
        return self.render(conversation)


def choose_template(
    name: str,
    tokenizer: Any,
    specials: Specials,
    model_folder: Optional[Path] = None,
    *,
    train_on_prompt: bool = False,
    mask_history: bool = False,
) -> ChosenTemplate:
    """The template called `name` for this tokenizer; a name with a dot or a slash is a file.

    Raises:
        ArgumentError: no such template or file; switches that contradict each other.
        DataError: a template that can't be read, or "auto" for a model that has none.
    """
    if train_on_prompt and mask_history:
        raise ArgumentError(
            "train_on_prompt and mask_history are both true: one trains every token, one fewer; keep one"
        )
    render, notes, end = _find(name, tokenizer, specials, model_folder, train_on_prompt)
    if train_on_prompt or mask_history:
        notes += (
            "trained: every token (train_on_prompt)" if train_on_prompt else "trained: the last answer (mask_history)",
        )
    adapted = partial(_render, render=render, train_on_prompt=train_on_prompt, mask_history=mask_history)
    return ChosenTemplate(name, adapted, notes, end, getattr(render, "reads_clock", False))


def _render(conversation: Conversation, render: Render, train_on_prompt: bool, mask_history: bool) -> Rendered:
    rendered = render(train_last_answer_only(conversation) if mask_history else conversation)
    return train_prompts(rendered) if train_on_prompt else rendered


def _find(
    name: str, tokenizer: Any, specials: Specials, folder: Optional[Path], all_answers: bool
) -> Tuple[Render, Tuple[str, ...], str]:
    if name in TEMPLATES:
        return TEMPLATES[name], _not_applied(name, tokenizer, folder), ""
    tokens = chat_tokens(tokenizer)
    if name in BUILT_IN:
        if name in ANY_FAMILY and not specials.bos:
            tokens = ChatTokens({**tokens.variables, "bos_token": ""}, tokens.texts)
        return _ready(BUILT_IN[name], name, f"template: {name}", tokens, tokenizer, all_answers)
    if name == "auto":
        source, origin = _own(tokenizer, folder)
        return _ready(source, "auto", f"template: the model's own ({origin})", tokens, tokenizer, all_answers)
    return _ready(_read_file(name), name, f"template: {name}", tokens, tokenizer, all_answers)


def _ready(
    source: Source, name: str, note: str, tokens: ChatTokens, tokenizer: Any, all_answers: bool
) -> Tuple[Render, Tuple[str, ...], str]:
    if not isinstance(source, str):
        return PartTemplate(source, name, tokens.texts), (note,), ""
    template = ChatTemplate(source, name, tokens, all_answers)
    notes = (note,)
    try:
        end = template.end_of_answer()
    except DataError:
        end = ""  # it wants more than a question and an answer; the data will show whether it is met
    else:
        if not end:
            notes += (
                f"template {name} writes no end token behind an answer, so the model does not learn to stop there",
            )
    split = [mark for mark in SINGLE_TOKENS.get(name, ()) if mark not in tokens.texts]
    if split:
        sizes = [len(tokenizer(mark, add_special_tokens=False)["input_ids"]) for mark in split]
        listed = ", ".join(f"{mark} ({size} tokens)" for mark, size in zip(split, sizes) if size > 1)
        notes += (
            (f"this tokenizer has no token of its own for {listed}; template {name} is another family's",)
            if listed
            else ()
        )
    return template, notes, end


def chat_tokens(tokenizer: Any) -> ChatTokens:
    """What templates see of the tokenizer."""
    variables: Dict[str, Any] = {}
    for key, value in dict(getattr(tokenizer, "special_tokens_map", None) or {}).items():
        variables[key] = [str(one) for one in value] if isinstance(value, (list, tuple)) else str(value)
    texts = {text for text in find_special_tokens(tokenizer).texts}
    added = dict(getattr(tokenizer, "added_tokens_decoder", None) or {}).values()
    # an added token that is not special (<tool_call>, <think>) is text to a template, and ends nothing
    texts -= {str(getattr(token, "content", token)) for token in added if not getattr(token, "special", True)}
    return ChatTokens(variables, tuple(sorted(texts)))


def find_own_template(folder: Optional[Path]) -> Optional[Tuple[Source, str]]:
    """(source, where it stands) of the template in a model folder, None when it has none.

    chat_template.jinja goes before tokenizer_config.json, as in Hugging Face, and both before PaddleNLP's
    chat_template.json; a second one that is there too is named as not used.

    Raises:
        DataError: a file that can't be read.
    """
    if folder is None:
        return None
    found = []
    if (folder / JINJA).is_file():
        found.append((_text(folder / JINJA), JINJA))
    config = _json(folder / CONFIG).get("chat_template") if (folder / CONFIG).is_file() else None
    if config:
        found.append((_named(config, folder / CONFIG), CONFIG))
    if (folder / PARTS).is_file():
        found.append((_parts(_json(folder / PARTS), folder / PARTS), PARTS))
    if not found:
        return None
    source, origin = found[0]
    others = [where for _, where in found[1:]]
    return source, origin + (f"; {' and '.join(others)} not used" if others else "")


def _own(tokenizer: Any, folder: Optional[Path]) -> Tuple[Source, str]:
    found = find_own_template(folder)
    if found:
        return found
    text = getattr(tokenizer, "chat_template", None)
    if isinstance(text, str) and text:
        return text, "the tokenizer's chat_template"
    where = f"{folder} has none ({JINJA}, {CONFIG}, {PARTS})" if folder else "its folder is not known"
    raise DataError(
        f"template is auto, and the model has no chat template: {where}. Choose default, one of {', '.join(BUILT_IN)}, "
        "or give a file"
    )


def _not_applied(name: str, tokenizer: Any, folder: Optional[Path]) -> Tuple[str, ...]:
    note = f"template: {name} (prompt and answer as they stand)"
    found = find_own_template(folder)
    if found or getattr(tokenizer, "chat_template", None) is not None:
        where = f" ({found[1]})" if found else ""
        return (
            f"{note}; the model has a chat template{where}, which is not applied: set template to auto to apply it",
        )
    return (note,)


def _read_file(name: str) -> Source:
    path = Path(name).expanduser()
    if path.is_file():
        return _parts(_json(path), path) if path.suffix == ".json" else _text(path)
    known = [*TEMPLATES, "auto", *BUILT_IN]
    if os.sep in name or path.suffix in (".jinja", ".json", ".txt"):
        raise ArgumentError(
            f"template is {name!r}: there is no such file. Give a Jinja file, or one of {', '.join(known)}."
        )
    near = get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(f"template is {name!r}{hint} Allowed: {', '.join(known)}, or a Jinja file.")


def _named(config: Any, path: Path) -> str:
    """The template of tokenizer_config.json: a string, or a list of {name, template} of which "default" is taken."""
    if isinstance(config, list):
        by_name = {one.get("name"): one.get("template") for one in config if isinstance(one, dict)}
        config = by_name.get("default")
        if not isinstance(config, str):
            there = ", ".join(map(str, by_name)) or "none"
            raise DataError(f"{path}: chat_template is a list without a template called default (there: {there})")
    if not isinstance(config, str):
        raise DataError(f"{path}: chat_template is no text; a Jinja template is needed")
    return config


def _parts(content: Mapping[str, Any], path: Path) -> Source:
    if isinstance(content.get("chat_template"), str):
        return content["chat_template"]
    if "conversation" not in content and "query" not in content:
        raise DataError(f"{path} has neither chat_template (Jinja) nor conversation and query (PaddleNLP)")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as text ({error})") from None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content
