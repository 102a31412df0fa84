"""What a sentencepiece model file says, read without the sentencepiece library.

Its own reader of the file needs a newer protobuf than paddlepaddle and VisualDL can run with, and the part that
matters is small. Field numbers: sentencepiece_model.proto of https://github.com/google/sentencepiece.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

from paddle_sft.core.errors import ModelError

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_BPE, _UNIGRAM = 2, 1
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Protobuf's wire types."""

Value = Union[int, bytes]


@dataclass(frozen=True)
class SentencePieceFile:
    """The pieces in the order of their ids, and the special ones among them."""

    pieces: Tuple[str, ...]
    added: Tuple[Tuple[str, bool], ...]
    """(piece, whether it is special) of control and user-defined pieces: texts that are never split."""
    special: Dict[str, str]
    """unk_token, bos_token, eos_token, as far as the model has them."""
    puts_space: bool
    """Whether a space is put before a text, so that its first word is cut like the others (add_dummy_prefix)."""

    def merges(self) -> List[Tuple[str, str]]:
        """Every way to make a piece of two others. A piece's id is its rank, so earlier pieces are merged first."""
        known = set(self.pieces)
        cuts = ((piece[:end], piece[end:]) for piece in self.pieces for end in range(1, len(piece)))
        return [(left, right) for left, right in cuts if left in known and right in known]


def read_sentencepiece(path: Path) -> SentencePieceFile:
    """Read a BPE model of sentencepiece.

    Raises:
        ModelError: the file is damaged, is something else, or is no BPE model.
    """
    try:
        top = list(_fields(path.read_bytes()))
        pieces = [_piece(content) for number, content in top if number == 1]
        trainer, normalizer = (
            dict(_fields(b"".join(content for number, content in top if number == wanted))) for wanted in (2, 3)
        )
        if not pieces:
            raise ValueError("it has no pieces")
        special = _special(trainer)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged or no sentencepiece model ({error or type(error).__name__}); "
            "copy it again from where the model is published, or put the model's tokenizer.json beside it"
        ) from None
    if trainer.get(3, _UNIGRAM) != _BPE:
        raise ModelError(
            f"{path} is a sentencepiece model of another kind than BPE, which transformers 5 would cut otherwise than "
            "it was trained; put the model's tokenizer.json beside it"
        )
    added = tuple((text, kind == _CONTROL) for text, kind in pieces if kind in (_CONTROL, _USER_DEFINED))
    return SentencePieceFile(tuple(text for text, _ in pieces), added, special, bool(normalizer.get(3, 1)))


def _piece(content: Value) -> Tuple[str, int]:
    fields = dict(_fields(content))
    return fields[1].decode("utf-8"), fields.get(3, _NORMAL)


def _special(trainer: Dict[int, Value]) -> Dict[str, str]:
    """The pieces of the tokens that have an id. Defaults are those of the proto: <unk> 0, <s> 1, </s> 2."""
    found = {}
    for name, id_field, piece_field, number, piece in (
        ("unk_token", 40, 45, 0, "<unk>"), ("bos_token", 41, 46, 1, "<s>"), ("eos_token", 42, 47, 2, "</s>"),
    ):  # fmt: skip
        if trainer.get(id_field, number) < 1 << 31:  # -1 is written as the largest number
            found[name] = trainer[piece_field].decode("utf-8") if piece_field in trainer else piece
    return found


def _fields(content: bytes) -> Iterator[Tuple[int, Value]]:
    """(field number, value) of a protobuf message: an int, or the bytes of a text, a message or a fixed number."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        if kind not in (_EIGHT_BYTES, _LENGTH, _FOUR_BYTES):
            raise ValueError(f"byte {position} begins no field")
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if size is None:
            size, position = _varint(content, position)
        if position + size > len(content):
            raise ValueError(f"it ends in the middle of a field of {size} bytes")
        yield key >> 3, content[position : position + size]
        position += size


def _varint(content: bytes, position: int) -> Tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
