"""Methods whose trained update is a plain LoRA: for folders of PEFT, and for combinations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, Tuple

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.models.hub import stored

Factors = Tuple[Tensor, Tensor]


def _own(update: Any) -> Factors:
    return update.lora_a, update.lora_b


def _with_mixer(update: Any) -> Factors:
    return update.lora_a @ update.lora_mixer, update.lora_b


def _with_start(update: Any) -> Factors:
    return update.plain_factors()


PLAIN: Dict[str, Callable[[Any], Factors]] = {
    "lora": _own,
    "lora_fa": _own,
    "moslora": _with_mixer,
    "pissa": _with_start,
    "olora": _with_start,
}
"""Method -> its update's A [in, r] and B [r, out]; what it adds is scaling * x A B."""


def as_lora(saved: SavedAdapter) -> SavedAdapter:
    """The same adapter as method lora; itself, bit for bit, where it is one. `saved.method` must be in PLAIN."""
    if saved.method == "lora":
        return saved
    arrays: Dict[str, np.ndarray] = {}
    ranks: Dict[str, int] = {}
    alphas: Dict[str, float] = {}
    for path in saved.shapes:
        update = saved.update(path)
        with paddle.no_grad():
            a, b = PLAIN[saved.method](update)
        arrays.update({f"{path}.lora_a": stored(a), f"{path}.lora_b": stored(b)})
        ranks[path] = int(a.shape[1])
        alphas[path] = update.scaling * ranks[path]
    config = lora_config(ranks, alphas, saved.config.lora_dropout)
    rest = {name: saved.file.read(name) for name in saved.file.specs if not name.startswith(tuple(saved.shapes))}
    return replace(saved, method="lora", config=config, file=Arrays({**arrays, **rest}))


def lora_config(ranks: Dict[str, int], alphas: Dict[str, float], dropout: float = 0.0, rslora: bool = False) -> Any:
    """LoRA's config of layers that have these ranks and alphas, with patterns for those that differ from most."""
    rank, alpha = _most_frequent(ranks), _most_frequent(alphas)
    return ADAPTERS["lora"].config(
        lora_rank=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        rslora=rslora,
        rank_pattern={path: one for path, one in ranks.items() if one != rank},
        alpha_pattern={path: one for path, one in alphas.items() if one != alpha},
        target_modules=tuple(ranks),
    )


def _most_frequent(values: Dict[str, Any]) -> Any:
    found = list(values.values())
    return max(dict.fromkeys(found), key=found.count)
