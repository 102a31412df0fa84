"""Jinja chat templates, in the environment that Hugging Face gives them, and which characters they write are answers.

With `{% generation %}` marks the template says itself what the assistant writes. Without them it is a black box: the
rendering of the messages before an answer (with the generation prompt) and of those up to it must each be the beginning
of the whole; the answer and its end token stand between. Where they are not (templates that take thoughts out of
earlier answers, say), the conversation is refused and the message named: any guess would train wrong tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation
from paddle_sft.data.dialogue import as_dicts, is_trained
from paddle_sft.data.template import Piece, Rendered

_OPEN, _CLOSE = "\U0010fff0", "\U0010fff1"
"""Written around what stands in {% generation %} blocks, and taken out again. Private use: no text has them."""
_PROBE = "PROBE0OF0AN0ANSWER"
"""Stands in for an answer to see what the template writes before and behind it."""


@dataclass(frozen=True)
class ChatTokens:
    """What a template is told about the tokenizer."""

    variables: Mapping[str, Any]
    """bos_token, eos_token, ...: as Hugging Face passes them."""
    texts: Tuple[str, ...]
    """Every special token; the first one behind an answer is its end."""


@dataclass(frozen=True)
class Answer:
    """What the assistant says: characters [start, end) of a rendering, its end token included."""

    message: int
    """Index of the message."""
    start: int
    end: int
    trained: bool
    message_end: int
    """Where what the template writes for the message ends."""


class ChatTemplate:
    """A template's source, compiled. Calling it renders a conversation; without an answer at its end, as a prompt.

    Raises:
        DataError: the source is no Jinja template (at once), or it can't write a conversation (when called).
    """

    def __init__(self, source: str, name: str, tokens: ChatTokens, all_answers: bool = False) -> None:
        self.name = name
        self._tokens = tokens
        self._all_answers = all_answers
        """Whether answers that are not trained must be found, too (train_on_prompt trains all around them)."""
        self._marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None
        self._reads_tools = re.search(r"\btools\b", source) is not None
        self._reads_calls = "tool_calls" in source
        self._ends = re.compile("|".join(map(re.escape, sorted(tokens.texts, key=len, reverse=True))) or r"(?!)")
        self.reads_clock = "strftime_now" in source
        self._compiled = _compile(source, name)
        self._usual = ("", "")  # what stood around the last answer that was looked at closely
        self._usual_first: Any = None  # system message and tools of the last conversation
        self._usual_head = ""

    def __call__(self, conversation: Conversation) -> Rendered:
        """The conversation as joined pieces."""
        self._refuse_unwritable(conversation)
        messages = as_dicts(conversation.turns)
        tools = list(getattr(conversation, "tools", ())) or None
        is_prompt = conversation.turns[-1].role != "assistant"
        marked = self._render(messages, tools, conversation.place, is_prompt)
        if self._marks:
            text, spans = _unmark(marked)
            answers = self._marked_answers(text, spans, conversation)
        else:
            text = marked
            answers = self._found_answers(text, messages, tools, conversation)
        head = self._head(text, messages, tools, answers)
        return _pieces(text, head, answers, conversation)

    def render_text(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, tools=None
    ) -> str:
        """What Hugging Face's apply_chat_template writes for the messages."""
        return _unmark(self._render(list(messages), tools, "the messages", add_generation_prompt))[0]

    def end_of_answer(self) -> str:
        """What the template writes behind the last answer of a conversation; "" when it writes nothing there.

        Raises:
            DataError: the template can't write a question and an answer.
        """
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        tail = self.render_text(probe).rpartition(_PROBE)[2]
        return tail[: self._end_in(tail)]

    def _refuse_unwritable(self, conversation: Conversation) -> None:
        place = conversation.place
        if getattr(conversation, "tools", ()) and not self._reads_tools:
            raise DataError(
                f"{place}: the row has tools, and template {self.name} doesn't write them; use another template"
            )
        for number, turn in enumerate(conversation.turns, start=1):
            if getattr(turn, "extra", {}).get("tool_calls") and not self._reads_calls:
                raise DataError(
                    f"{place}: message {number} calls tools, and template {self.name} doesn't write tool_calls; use "
                    "another template"
                )
            if self._marks and (_OPEN in turn.content or _CLOSE in turn.content):
                raise DataError(
                    f"{place}: message {number} holds a private-use character (U+10FFF0 or U+10FFF1); remove it"
                )

    def _render(self, messages: List[Dict[str, Any]], tools: Any, place: str, add_generation_prompt: bool) -> str:
        import jinja2

        try:
            return self._compiled.render(
                **{
                    **self._tokens.variables,
                    "messages": messages,
                    "tools": tools,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise DataError(f"{place}: template {self.name} can't write this conversation: {error}") from None

    def _marked_answers(self, text: str, spans: List[Tuple[int, int]], conversation: Conversation) -> List[Answer]:
        said = [index for index, turn in enumerate(conversation.turns) if turn.role == "assistant"]
        if len(spans) != len(said):
            raise DataError(
                f"{conversation.place}: template {self.name} marks {len(spans)} answers with {{% generation %}}, and "
                f"the conversation has {len(said)}"
            )
        found = []
        for index, (start, end) in zip(said, spans):
            line_ends = len(text[end:]) - len(text[end:].lstrip("\n"))
            found.append(Answer(index, start, end, is_trained(conversation.turns[index]), end + line_ends))
        return found

    def _found_answers(
        self, text: str, messages: List[Dict[str, Any]], tools: Any, conversation: Conversation
    ) -> List[Answer]:
        found = []
        for index, turn in enumerate(conversation.turns):
            if turn.role != "assistant":
                continue
            try:
                found.append(self._found_answer(text, index, messages, tools, conversation))
            except DataError:
                if is_trained(turn) or self._all_answers:
                    raise
        return found

    def _found_answer(
        self, text: str, index: int, messages: List[Dict[str, Any]], tools: Any, conversation: Conversation
    ) -> Answer:
        place = conversation.place
        last = index == len(messages) - 1
        before = self._render(messages[:index], tools, place, True)
        upto = text if last else self._render(messages[: index + 1], tools, place, False)
        if not upto.startswith(before) or not text.startswith(upto):
            raise DataError(
                f"{place}: template {self.name} can't be split at message {index + 1} (assistant): what it writes up "
                "to there is not the beginning of the whole conversation, so it can't be told which tokens are the "
                "answer. Mark the answers in the template with {% generation %}, or set mask_history to train the last "
                "answer only"
            )
        head, tail = self._around(before, upto, index, messages, tools, place)
        start = len(before) + len(head.rstrip(" ") if head.strip() else "")
        end = len(upto) - len(tail) + self._end_in(tail)
        return Answer(index, start, end, is_trained(conversation.turns[index]), len(upto))

    def _around(
        self, before: str, upto: str, index: int, messages: List[Dict[str, Any]], tools: Any, place: str
    ) -> Tuple[str, str]:
        """What the template writes between the generation prompt and the answer's words, and behind them."""
        message = messages[index]
        content = message["content"]
        head, tail = self._usual
        if upto[len(before) :] in (head + content + tail, head + content.strip() + tail) and not message.get(
            "tool_calls"
        ):
            return head, tail
        probe = {key: value for key, value in message.items() if key != "tool_calls"}
        probed = self._render(messages[:index] + [{**probe, "content": _PROBE}], tools, place, False)
        head, found, tail = probed[len(before) :].partition(_PROBE)
        if not probed.startswith(before + head) or not found:
            raise DataError(f"{place}: template {self.name} doesn't write the content of message {index + 1}")
        if message.get("tool_calls"):
            ends = list(self._ends.finditer(upto, len(before)))
            end = ends[-1].start() if ends else len(upto.rstrip())
            return "", upto[end:]
        if not upto.endswith(tail) or not upto.startswith(before + head):
            raise DataError(f"{place}: template {self.name} writes message {index + 1} in a way that can't be followed")
        self._usual = (head, tail)
        return head, tail

    def _end_in(self, tail: str) -> int:
        """Length of the end token in what stands behind an answer: up to the first special token, or to the last letter
        where there is none."""
        match = self._ends.search(tail)
        return match.end() if match else len(tail.rstrip())

    def _head(self, text: str, messages: List[Dict[str, Any]], tools: Any, answers: List[Answer]) -> int:
        """How many characters stand before the first turn: the begin token, the system's message."""
        first = messages[:1] if messages[0]["role"] == "system" else []
        if (first, tools) != self._usual_first:  # conversations of a data set mostly begin alike
            self._usual_first, self._usual_head = (first, tools), self._write_head(first, tools)
        head = self._usual_head
        begin = str(self._tokens.variables.get("bos_token") or "")
        for candidate in (head, begin):
            limit = answers[0].start if answers else len(text)
            if candidate and text.startswith(candidate) and len(candidate) <= limit:
                return len(candidate)
        return 0

    def _write_head(self, first: List[Dict[str, Any]], tools: Any) -> str:
        try:
            return _unmark(self._render(first, tools, "", False))[0]
        except DataError:  # many templates can't write a system message alone, or nothing
            return ""


def _compile(source: str, name: str) -> Any:
    try:
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise DataError("chat templates need the package jinja2: pip install jinja2") from None

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}: what stands between is the assistant's."""

        tags = {"generation"}

        def parse(self, parser: Any) -> List[Any]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marks = [jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)], lineno=line) for mark in (_OPEN, _CLOSE)]
            return [marks[0], *body, marks[1]]

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    extensions = [Generation, jinja2.ext.loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = to_json  # Jinja's own escapes for HTML
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise DataError(f"template {name} is not valid Jinja ({error}{f', line {line}' if line else ''})") from None


def _unmark(marked: str) -> Tuple[str, List[Tuple[int, int]]]:
    """The text without marks, and the [start, end) that stood between them."""
    parts, spans, position, opened = [], [], 0, 0
    for part in re.split(f"([{_OPEN}{_CLOSE}])", marked):
        if part == _OPEN:
            opened = position
        elif part == _CLOSE:
            spans.append((opened, position))
        else:
            parts.append(part)
            position += len(part)
    return "".join(parts), spans


def _pieces(text: str, head: int, answers: Sequence[Answer], conversation: Conversation) -> Rendered:
    """The text as pieces of one run: head, then a turn from each question up to where its answer's message ends."""
    turn_ends = _turn_ends(answers, conversation, len(text))
    edges = {0, head, len(text), *turn_ends}
    for answer in answers:
        edges |= {answer.start, answer.end}
    cuts = sorted(edges)
    groups: List[List[Piece]] = [[]]
    for start, end in zip(cuts, cuts[1:]):
        if start == head or start in turn_ends:
            groups.append([])
        inside = next((answer for answer in answers if answer.start <= start and end <= answer.end), None)
        trained = inside is not None and inside.trained
        groups[-1].append(Piece(text[start:end], trained, run=1, answer=inside is not None))
    return Rendered(tuple(groups[0]), tuple(tuple(group) for group in groups[1:]))


def _turn_ends(answers: Sequence[Answer], conversation: Conversation, length: int) -> List[int]:
    """Where a turn ends and the next begins: behind answers that a user's message follows."""
    roles = [turn.role for turn in conversation.turns]
    ends = [answer.message_end for answer in answers if roles[answer.message + 1 : answer.message + 2] == ["user"]]
    return [end for end in ends if end < length]
