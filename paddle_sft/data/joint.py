"""Tokenises a text as one, and tells where in the ids its pieces begin and end.

Special tokens are set apart here, not by the tokenizer: PaddleNLP 3.0.0b4 removes the white space beside them (Qwen2's
"<|im_end|>\\n<|im_start|>" loses the line end that the model was trained with). What stands between two special tokens
is tokenised as one, so ids are those of Hugging Face's tokenizer for the whole text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

_REACH = 32
"""Characters on each side of a cut that are searched for a place where a token ends; merges are shorter than that."""

Span = Tuple[int, int]


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that a tokenizer never splits, as texts, and how to find them."""

    id_of: Dict[str, int]
    pattern: Optional["re.Pattern[str]"]

    @property
    def texts(self) -> Tuple[str, ...]:
        return tuple(self.id_of)


def find_special_tokens(tokenizer: Any) -> SpecialTokens:
    """The special and added tokens of a tokenizer; none when it doesn't tell."""
    added = {str(token): token for token in dict(getattr(tokenizer, "added_tokens_decoder", None) or {}).values()}
    names = [str(token) for token in getattr(tokenizer, "all_special_tokens", None) or ()]
    names += [str(getattr(token, "content", token)) for token in added.values()]
    names = sorted({name for name in names if name}, key=lambda name: (-len(name), name))  # the longest match wins
    if not names:
        return SpecialTokens({}, None)
    objects = {str(getattr(token, "content", token)): token for token in added.values()}
    parts = []
    for name in names:
        left = r"\s*" if getattr(objects.get(name), "lstrip", False) else ""
        right = r"\s*" if getattr(objects.get(name), "rstrip", False) else ""
        parts.append(f"{left}{re.escape(name)}{right}")
    return SpecialTokens(
        {name: int(tokenizer.convert_tokens_to_ids(name)) for name in names}, re.compile("|".join(parts))
    )


@dataclass(frozen=True)
class _Segment:
    """A stretch of a text: a special token, or the text between two."""

    start: int
    end: int
    special: Optional[int]


@dataclass(frozen=True)
class Encoded:
    """Ids of a run, and the tokens [start, end) of each of its pieces. A token that holds characters of two pieces is
    counted to both."""

    ids: List[int]
    spans: List[Span]


def encode_runs(
    runs: Sequence[Sequence[str]], specials: SpecialTokens, encode: Callable[[Sequence[str]], List[List[int]]]
) -> List[Encoded]:
    """Each run (its pieces' texts, in order) as ids. `encode` gives the ids of texts, all in one call."""
    plans = []
    wanted: List[str] = []
    for pieces in runs:
        text = "".join(pieces)
        cuts: List[int] = []
        for piece in pieces[:-1]:
            cuts.append((cuts[-1] if cuts else 0) + len(piece))
        segments = _split(text, specials)
        for segment in segments:
            if segment.special is None:
                wanted.append(text[segment.start : segment.end])
                wanted += [text[segment.start : cut] for cut in _inner(cuts, segment)]
        plans.append((text, cuts, segments))
    found = iter(encode(wanted))
    return [_assemble(text, cuts, segments, found, encode) for text, cuts, segments in plans]


def _split(text: str, specials: SpecialTokens) -> List[_Segment]:
    segments, position = [], 0
    for match in specials.pattern.finditer(text) if specials.pattern else ():
        if match.start() > position:
            segments.append(_Segment(position, match.start(), None))
        token = match.group(0)
        segments.append(
            _Segment(match.start(), match.end(), specials.id_of.get(token, specials.id_of.get(token.strip())))
        )
        position = match.end()
    if position < len(text):
        segments.append(_Segment(position, len(text), None))
    return segments


def _inner(cuts: Sequence[int], segment: _Segment) -> List[int]:
    return sorted({cut for cut in cuts if segment.start < cut < segment.end})


def _assemble(text: str, cuts: Sequence[int], segments: Sequence[_Segment], found, encode) -> Encoded:
    ids: List[int] = []
    edge_of: Dict[int, Span] = {0: (0, 0)}  # cut -> (first token that reaches it, first token wholly behind it)
    for segment in segments:
        edge_of[segment.start] = (len(ids), len(ids))
        inner = _inner(cuts, segment)
        if segment.special is not None:
            edge_of.update((cut, (len(ids), len(ids) + 1)) for cut in inner)
            ids.append(segment.special)
            continue
        whole = next(found)
        inside = text[segment.start : segment.end]
        for cut in inner:
            low, high = _find_edge(inside, cut - segment.start, whole, next(found), encode)
            edge_of[cut] = (len(ids) + low, len(ids) + high)
        ids += whole
    edge_of[len(text)] = (len(ids), len(ids))
    bounds = [0, *cuts, len(text)]
    return Encoded(ids, [(edge_of[start][0], edge_of[end][1]) for start, end in zip(bounds, bounds[1:])])


def _find_edge(text: str, cut: int, whole: List[int], before: List[int], encode) -> Span:
    """Tokens at a cut: equal numbers where one ends there, else the range that straddles it.

    The ids of text[:cut] begin the ids of the text exactly when a token ends at the cut.
    """
    if whole[: len(before)] == before:
        return len(before), len(before)

    def num_tokens(end: int) -> Optional[int]:
        ids = encode([text[:end]])[0]
        return len(ids) if whole[: len(ids)] == ids else None

    behind = (num_tokens(end) for end in range(cut - 1, max(cut - _REACH, 0), -1))
    low = next((num for num in behind if num is not None), None)
    if low is None:
        low = next((index for index, (one, other) in enumerate(zip(before, whole)) if one != other), 0)
        low = 0 if cut <= _REACH else low
    ahead = (num_tokens(end) for end in range(cut + 1, min(cut + _REACH, len(text)) + 1))
    high = next((num for num in ahead if num is not None and num > low), None)
    return low, low + 1 if high is None else high
