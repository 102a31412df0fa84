"""How a conversation is written for the model: pieces of text, each trained or not.

A template is a pure function Conversation -> Rendered and knows no tokenizer. `default` tokenises its pieces one by
one, so a token never straddles the boundary between prompt and answer. That costs a few merges a joint tokenisation
would find, and it buys the two things that matter: the prompt has the ids it will have at generation, when the
answer isn't known yet, and each token is wholly trained or wholly not. PaddleNLP makes the same choice, so its
checkpoints see what they saw; a sentencepiece tokenizer starts every piece as a new word there and here.

Chat templates (`chat_template`, `own_template`) write one text; its pieces are tokenised together (`Piece.run`), as
whoever made the model did.
"""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Tuple

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Conversation
from paddle_sft.data.dialogue import is_trained


class Piece(NamedTuple):
    """Text that is tokenised by itself, or a special token by its role."""

    text: str
    trained: bool
    special: str = ""
    """"bos": the tokenizer's begin token if it adds one, else nothing; "eos": its end token; "" for text."""
    run: int = 0
    """Neighbours of one run (above 0) are one text that a chat template wrote, and are tokenised as one."""
    answer: bool = False
    """Part of what the assistant says, trained or not."""


class Rendered(NamedTuple):
    """A conversation as pieces. `head` stands before every turn and survives truncation; turns may be dropped whole."""

    head: Tuple[Piece, ...]
    turns: Tuple[Tuple[Piece, ...], ...]


Render = Callable[[Conversation], Rendered]


def render_default(conversation: Conversation) -> Rendered:
    """begin token, then for each turn the prompt as it is and the trained answer with its end token.

    Nothing is put between prompt and answer: what separates them is in the user's text. This is what PaddleNLP does
    without a chat template, and what a base model is fine-tuned on. All turns are trained in one pass.

    Raises:
        DataError: the conversation has tools, which plain text can't say.
    """
    has_tools = bool(getattr(conversation, "tools", ()))
    turns = []
    pending: Tuple[Piece, ...] = ()
    for turn in conversation.turns:
        extra = getattr(turn, "extra", None)
        has_tools = has_tools or bool(extra and extra.get("tool_calls"))
        if turn.role == "assistant":
            trained = is_trained(turn)
            end = Piece("", trained, special="eos", answer=True)
            turns.append(pending + (Piece(turn.content, trained, answer=True), end))
            pending = ()
        else:
            pending += (Piece(turn.content, False),)
    if has_tools:
        raise DataError(
            f'{conversation.place}: the row has tools, which template "default" can\'t write; set template to auto'
        )
    if pending:  # a prompt without an answer: nothing to train, kept so that generation can use the same template
        turns.append(pending)
    return Rendered(head=(Piece("", False, special="bos"),), turns=tuple(turns))


def train_prompts(rendered: Rendered) -> Rendered:
    """Everything trained, except answers that the data keeps out of the loss (`train_on_prompt`)."""

    def trained(pieces: Tuple[Piece, ...]) -> Tuple[Piece, ...]:
        return tuple(piece if piece.answer else piece._replace(trained=True) for piece in pieces)

    return Rendered(trained(rendered.head), tuple(trained(pieces) for pieces in rendered.turns))


TEMPLATES: Dict[str, Render] = {
    "default": render_default,
}
"""Templates that need nothing but the conversation; `choose_template` finds these and all others."""
