"""How a conversation is written for the model: pieces of text, each trained or not.

A template is a pure function Conversation -> Rendered and knows no tokenizer. Pieces are tokenised one by one,
so a token never straddles the boundary between prompt and answer. That costs a few merges a joint tokenisation
would find, and it buys the two things that matter: the prompt has the ids it will have at generation, when the
answer isn't known yet, and each token is wholly trained or wholly not. PaddleNLP makes the same choice, so its
checkpoints see what they saw; a sentencepiece tokenizer starts every piece as a new word there and here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Tuple

from paddle_sft.core.records import Conversation


@dataclass(frozen=True)
class Piece:
    """Text that is tokenised by itself, or a special token by its role."""

    text: str
    trained: bool
    special: str = ""
    """"bos": the tokenizer's begin token if it adds one, else nothing; "eos": its end token; "" for text."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as pieces. `head` stands before every turn and survives truncation; turns may be dropped whole."""

    head: Tuple[Piece, ...]
    turns: Tuple[Tuple[Piece, ...], ...]


def render_default(conversation: Conversation) -> Rendered:
    """begin token, then for each turn the prompt as it is and the trained answer with its end token.

    Nothing is put between prompt and answer: what separates them is in the user's text. This is what PaddleNLP does
    without a chat template, and what a base model is fine-tuned on. All turns are trained in one pass.
    """
    turns = []
    pending: Tuple[Piece, ...] = ()
    for turn in conversation.turns:
        if turn.role == "assistant":
            turns.append(pending + (Piece(turn.content, True), Piece("", True, special="eos")))
            pending = ()
        else:
            pending += (Piece(turn.content, False),)
    if pending:  # a prompt without an answer: nothing to train, kept so that generation can use the same template
        turns.append(pending)
    return Rendered(head=(Piece("", False, special="bos"),), turns=tuple(turns))


TEMPLATES: Dict[str, Callable[[Conversation], Rendered]] = {
    "default": render_default,
}
