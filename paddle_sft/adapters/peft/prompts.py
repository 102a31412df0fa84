"""Prompt tuning, P-tuning and prefix tuning in PEFT's folders: one matrix, prompt_embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.base import ModelFacts
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.peft.settings import Settings
from paddle_sft.adapters.saved import OF_MODEL, SavedAdapter
from paddle_sft.core.errors import ModelError
from paddle_sft.models.hub import stored

EMBEDDINGS = "prompt_embeddings"
_PROMPT = f"{OF_MODEL}prompt"

_SIZES = ("num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers")
_ENCODER = ("encoder_hidden_size", "encoder_num_layers", "encoder_dropout", "encoder_reparameterization_type")
_START = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
_SETTINGS = Settings(
    honoured=_SIZES, only={"num_transformer_submodules": (1, None)}, inert=(*_ENCODER, *_START, "prefix_projection")
)
"""A folder holds what the encoder made: how it was made and started says nothing any more."""


class PromptTable(NamedTuple):
    """A method of PEFT that stands before the text, and ours."""

    peft_type: str
    method: str
    settings: Settings
    plain: Dict[str, Any]
    """What our config says of an adapter whose encoder is dropped."""
    read: Callable[[np.ndarray, ModelFacts], Dict[str, np.ndarray]]
    """(prompt_embeddings, sizes of the base) -> our names and arrays."""
    write: Callable[[Dict[str, np.ndarray], ModelFacts], np.ndarray]
    sizes: Callable[[ModelFacts], Dict[str, int]]
    """token_dim, num_attention_heads and num_layers as PEFT counts them."""


def _read_prompt(array: np.ndarray, facts: ModelFacts) -> Dict[str, np.ndarray]:
    return {_PROMPT: array}


def _write_prompt(arrays: Dict[str, np.ndarray], facts: ModelFacts) -> np.ndarray:
    return arrays[_PROMPT]


def _read_prefix(array: np.ndarray, facts: ModelFacts) -> Dict[str, np.ndarray]:
    """[n, layers * 2 * heads * size], a layer's keys before its values -> [n, 2 * heads * size] for each layer."""
    parts = np.split(array, facts.num_hidden_layers, axis=1)
    return {f"{OF_MODEL}prefix.{number}": np.ascontiguousarray(part) for number, part in enumerate(parts)}


def _write_prefix(arrays: Dict[str, np.ndarray], facts: ModelFacts) -> np.ndarray:
    return np.concatenate([arrays[f"{OF_MODEL}prefix.{n}"] for n in range(facts.num_hidden_layers)], axis=1)


def _token_sizes(facts: ModelFacts) -> Dict[str, int]:
    heads = {"num_attention_heads": facts.num_attention_heads, "num_layers": facts.num_hidden_layers}
    return {"token_dim": facts.token_size, **heads}


def _head_sizes(facts: ModelFacts) -> Dict[str, int]:
    heads = facts.num_key_value_heads
    return {
        "token_dim": heads * facts.head_dim,
        "num_attention_heads": heads,
        "num_layers": facts.num_hidden_layers,
    }


TABLES: Tuple[PromptTable, ...] = (
    PromptTable("PROMPT_TUNING", "prompt_tuning", _SETTINGS, {}, _read_prompt, _write_prompt, _token_sizes),
    PromptTable(
        "P_TUNING", "p_tuning", _SETTINGS, {"encoder_reparameterization_type": "none"}, _read_prompt, _write_prompt,
        _token_sizes,
    ),
    PromptTable(
        "PREFIX_TUNING", "prefix_tuning", _SETTINGS, {"prefix_projection": False}, _read_prefix, _write_prefix,
        _head_sizes,
    ),
)  # fmt: skip


def read_prompt(table: PromptTable, content: Dict[str, Any], array: np.ndarray, saved: SavedAdapter) -> SavedAdapter:
    """`saved` (its method and config not yet known) with what a folder of PEFT holds.

    Raises:
        ModelError: the sizes are those of another base.
    """
    sizes = table.sizes(saved.facts)
    width = sizes["token_dim"] * (2 * sizes["num_layers"] if table.method == "prefix_tuning" else 1)
    if array.ndim != 2 or array.shape[1] != width:
        raise ModelError(
            f"{saved.folder}: {EMBEDDINGS} is {list(array.shape)}, and this base needs {width} numbers a token; "
            "give the base that it was trained on"
        )
    config = ADAPTERS[table.method].config(num_virtual_tokens=int(array.shape[0]), **table.plain)
    return replace(saved, method=table.method, config=config, file=Arrays(table.read(array, saved.facts)))


def write_prompt(table: PromptTable, saved: SavedAdapter) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """(the method's settings, its weights) for PEFT; an encoder that is still there is computed and left out."""
    part = saved.part_of_model
    _, state = part.for_use(saved.config)
    arrays = {OF_MODEL + name: stored(value.detach()) for name, value in state.items()}
    numbers = {"num_virtual_tokens": saved.config.num_virtual_tokens, "num_transformer_submodules": 1}
    return {**numbers, **table.sizes(saved.facts)}, {EMBEDDINGS: table.write(arrays, saved.facts)}
