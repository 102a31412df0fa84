"""Samples as a person reads them: what is trained stands out."""

from __future__ import annotations

import os
from typing import Any, Callable, List, Sequence, Tuple

from paddle_sft.core.records import Sample

_GREEN, _PLAIN = "\x1b[1;32m", "\x1b[0m"
_OPEN, _CLOSE = "⟦", "⟧"


def show_sample(sample: Sample, tokenizer: Any, is_colored: bool) -> str:
    """The sample's text, trained tokens in green, or between ⟦ and ⟧ where there is no color."""
    opened, closed = (_GREEN, _PLAIN) if is_colored else (_OPEN, _CLOSE)
    decode = _decoder(tokenizer)
    share = 100 * sample.num_trained / max(len(sample), 1)
    what = f"label {sample.label}" if sample.label else f"{sample.num_trained:,} trained ({share:.1f}%)"
    lines = [f"{sample.place}: {len(sample):,} tokens, {what}"]
    lines.append("".join(f"{opened}{decode(ids)}{closed}" if trained else decode(ids) for ids, trained in runs(sample)))
    return "\n".join(lines)


def runs(sample: Sample) -> List[Tuple[List[int], bool]]:
    """Neighbouring tokens that are alike, trained or not. Token 0 is no target, so it counts as not trained."""
    found: List[Tuple[List[int], bool]] = []
    for index, token in enumerate(sample.ids.tolist()):
        trained = bool(sample.trained[index]) and index > 0
        if not found or found[-1][1] != trained:
            found.append(([], trained))
        found[-1][0].append(token)
    return found


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    if hasattr(tokenizer, "decode"):
        return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)
    return lambda ids: " ".join(map(str, ids))


def wants_color(is_terminal: bool) -> bool:
    """Color on a terminal, unless NO_COLOR is set to anything."""
    return is_terminal and not os.environ.get("NO_COLOR")
