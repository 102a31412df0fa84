"""PaddleNLP's chat_template.json: a Jinja text for the system, one for a question and one for its answer.

{"system": "...", "conversation": ["...{{user}}...", "{{bot}}..."], "query": "...{{query}}..."}

The parts are tokenised one by one, as PaddleNLP does; special tokens are set apart first (see `joint`).
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation
from paddle_sft.data.dialogue import is_trained
from paddle_sft.data.template import Piece, Rendered

_PROBE = "PROBE0OF0AN0ANSWER"


class PartTemplate:
    """The three texts, compiled. Calling it renders a conversation.

    Raises:
        DataError: parts that are missing or no Jinja (at once), or a conversation it can't write (when called).
    """

    def __init__(self, content: Mapping[str, Any], name: str, special_texts: Sequence[str]) -> None:
        self.name = name
        self._special_texts = tuple(special_texts)
        conversation = content.get("conversation")
        if not isinstance(conversation, list) or len(conversation) != 2:
            raise DataError(
                f"template {name}: conversation must be a list of two texts, the question's and the answer's"
            )
        texts = {
            "user": conversation[0],
            "bot": conversation[1],
            "system": content.get("system"),
            "query": content.get("query"),
        }
        self._texts = {key: self._compile(key, text) for key, text in texts.items() if text is not None}
        self._reads_system = "system" in str(content.get("system"))

    def __call__(self, conversation: Conversation) -> Rendered:
        """Each part as a run of its own; of an answer's part, what stands behind its end token is not trained."""
        turns, place = list(conversation.turns), conversation.place
        system = turns.pop(0).content if turns[0].role == "system" else None
        if system is not None and not self._reads_system:
            raise DataError(
                f"{place}: template {self.name} has a system text of its own and can't write the row's; remove it"
            )
        for number, turn in enumerate(turns):
            if turn.role != ("user", "assistant")[number % 2] or getattr(turn, "extra", {}).get("tool_calls"):
                raise DataError(
                    f"{place}: template {self.name} writes questions and answers in turns, and nothing else"
                )
        if getattr(conversation, "tools", ()):
            raise DataError(
                f"{place}: the row has tools, and template {self.name} doesn't write them; use another template"
            )
        shared = {"is_training": True, "length": (len(turns) + 1) // 2}
        shared.update({} if system is None else {"system": system})
        run = 1
        head = (Piece(self._write("system", place, shared), False, run=run),) if "system" in self._texts else ()
        rendered: List[Tuple[Piece, ...]] = []
        for index in range(0, len(turns) - 1, 2):
            number = index // 2
            ends = {"index": number, "is_first": number == 0, "is_last": index + 2 >= len(turns)}
            values = {**shared, **ends, "user": turns[index].content, "bot": turns[index + 1].content}
            answer = self._answer(values, place, is_trained(turns[index + 1]), run + 2)
            rendered.append((Piece(self._write("user", place, values), False, run=run + 1), *answer))
            run += 2
        if len(turns) % 2:
            values = {**shared, "query": turns[-1].content, "index": len(turns) // 2}
            text = self._write("query", place, values) if "query" in self._texts else turns[-1].content
            rendered.append((Piece(text, False, run=run + 1),))
        return Rendered(_without_empty(head), tuple(_without_empty(pieces) for pieces in rendered))

    def _answer(self, values: Mapping[str, Any], place: str, trained: bool, run: int) -> Tuple[Piece, ...]:
        text = self._write("bot", place, values)
        tail = self._write("bot", place, {**values, "bot": _PROBE}).rpartition(_PROBE)[2]
        ends = [tail.index(one) + len(one) for one in self._special_texts if one in tail]
        kept = len(text) - len(tail) + (min(ends) if ends else len(tail.rstrip()))
        return Piece(text[:kept], trained, run=run, answer=True), Piece(text[kept:], False, run=run)

    def _compile(self, key: str, text: Any) -> Any:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        try:
            return environment.from_string(text)
        except (jinja2.TemplateError, TypeError, AttributeError) as error:
            raise DataError(f"template {self.name}: {key} is not valid Jinja ({error})") from None

    def _write(self, key: str, place: str, values: Mapping[str, Any]) -> str:
        import jinja2

        try:
            return self._texts[key].render(**values)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise DataError(f"{place}: template {self.name} can't write this conversation: {error}") from None


def _without_empty(pieces: Sequence[Piece]) -> Tuple[Piece, ...]:
    return tuple(piece for piece in pieces if piece.text)
