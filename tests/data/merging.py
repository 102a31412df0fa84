"""A tokenizer that merges across the borders of messages and knows where its tokens stand: the tests' oracle."""

from __future__ import annotations

import re
from typing import List, Sequence, Tuple

MERGES = (
    "\n\n",
    "\n\n\n",
    " a",
    "ab",
    "\na",
    "a\n",
    ": ",
    ">\n",
    "nt\n",
    "] a",
    "bab",
    "b ",
    "\u00e9\u00e9",
    "T:",
    ": a",
)


class MergingTokenizer:
    """Greedy longest match over merges and single characters; special tokens are never split. Id 0 is no token."""

    def __init__(
        self, specials: Sequence[str] = ("<s>", "</s>"), adds_bos: bool = True, merges: Sequence[str] = MERGES
    ) -> None:
        self.all_special_tokens = list(specials)
        self.special_tokens_map = {"bos_token": specials[0], "eos_token": specials[1]}
        self.bos_token_id, self.eos_token_id, self.pad_token_id = 1, 2, 0
        self.bos_token, self.eos_token = specials[:2]
        self._adds_bos = adds_bos
        self._merges = merges
        self._texts = ["", *specials, *merges]
        self._split = re.compile(
            "(" + "|".join(re.escape(one) for one in sorted(specials, key=len, reverse=True)) + ")"
        )

    def convert_tokens_to_ids(self, token: str) -> int:
        return self._texts.index(token)

    def __call__(self, text, add_special_tokens: bool = True):
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [self._id(text[start:end]) for start, end in self.offsets(text)]
        return {"input_ids": [1] * (add_special_tokens and self._adds_bos) + ids}

    def _id(self, token: str) -> int:
        return self._texts.index(token) if token in self._texts else len(self._texts) + ord(token)

    def decode(self, ids, skip_special_tokens: bool = False) -> str:
        return "".join(self._texts[one] if one < len(self._texts) else chr(one - len(self._texts)) for one in ids)

    def offsets(self, text: str) -> List[Tuple[int, int]]:
        """[start, end) of each token."""
        found: List[Tuple[int, int]] = []
        position = 0
        for part in self._split.split(text):
            if part in self.all_special_tokens:
                found.append((position, position + len(part)))
                position += len(part)
                continue
            stop = position + len(part)
            while position < stop:
                fits = [one for one in self._merges if text.startswith(one, position) and position + len(one) <= stop]
                size = max(map(len, fits), default=1)
                found.append((position, position + size))
                position += size
        return found
