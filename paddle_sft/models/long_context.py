"""A longer context than a model was trained for, by scaling its rotary positions, under PaddleNLP's names.

The scaling becomes part of the model's config.json, in transformers' spelling, so that the tuned model has it wherever
it is loaded. An adapter folder carries it for its base.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

from paddle import nn

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.catalogue import FAMILIES, find_family
from paddle_sft.models.packed import settings_of
from paddle_sft.models.rope import Rope, rope_of

KINDS: Mapping[str, str] = {
    "RotaryEmbedding": "",
    "LinearScalingRotaryEmbedding": "linear",
    "NTKScalingRotaryEmbedding": "ntk",
    "DynamicNTKScalingRotaryEmbedding": "dynamic",
    "YaRNScalingRotaryEmbedding": "yarn",
}
"""PaddleNLP's strategy -> the rope_type of transformers; ntk is none of them, but another rope_theta."""


def scaled_positions(config: Mapping[str, Any], strategy: str, factor: float, place: str) -> Dict[str, Any]:
    """The keys of a config.json that a strategy changes, with their new values.

    Args:
        config: as `models.config.read_config` gives it.
        strategy: a name in KINDS.
        factor: how many times longer the context becomes.
        place: the model's folder or name, for messages.

    Raises:
        ArgumentError: the model has no rotary positions, or they are scaled already.
        ModelError: the family's network has no positions of this kind.
    """
    kind, rope = KINDS[strategy], rope_of({"num_attention_heads": 1, **config})
    if rope is None or "rope_theta" not in FAMILIES[config["model_type"]].keys:
        raise ArgumentError(
            f"use_long_sequence_strategies scales rotary positions, and {place} ({config['model_type']}) has none; "
            "leave it out"
        )
    changes = _changes(kind, factor, rope)
    if not changes or _says_already(config, changes):
        return {}
    if rope.kind != "default":
        raise ArgumentError(
            f"strategy_name is {strategy}, and the positions of {place} are scaled already (rope_scaling of type "
            f"{rope.kind} in its config.json); leave use_long_sequence_strategies out to go on with them"
        )
    find_family({**config, **changes}, place)
    return changes


def _changes(kind: str, factor: float, rope: Rope) -> Dict[str, Any]:
    if not kind:
        return {}
    if kind == "ntk":
        # "NTK-aware" scaling (described in Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3.1): the
        # slowest pair turns as much slower as linear scaling would let it, the fastest as fast as before.
        theta = rope.theta * factor ** (rope.size / (rope.size - 2))
        return {"rope_theta": theta, "max_position_embeddings": int(rope.longest * factor)}
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = rope.longest
    return {"rope_scaling": scaling}


def _says_already(config: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether the model is one that was tuned with this very scaling."""
    return "rope_scaling" in changes and all(config.get(key) == value for key, value in changes.items())


def extend(model: nn.Layer, changes: Mapping[str, Any]) -> None:
    """Let a loaded model's positions be those of changed config keys, in place; its config.json will say so.

    Raises:
        ModelError: they were changed otherwise before, by another adapter.
    """
    if not changes:
        return
    before = getattr(model, "scaled_positions", None)
    if before not in (None, dict(changes)):
        raise ModelError(
            f"the positions of this model were scaled as {before} already, and now {dict(changes)} is asked"
        )
    family = FAMILIES[model.config.model_type]
    for key, value in changes.items():
        setattr(model.config, family.spelled.get(key, key), value)
    model.row_layout.turn(rope_of(settings_of(model.config)))
    model.scaled_positions = dict(changes)


def longest_text(config: Mapping[str, Any]) -> int:
    """Tokens of a text that a model's positions are made for; 0 where they have no end."""
    known, rope = config.get("max_position_embeddings") or 0, rope_of({"num_attention_heads": 1, **config})
    if rope is None or rope.kind not in ("linear", "dynamic", "yarn"):
        return int(known)
    return max(int(known), int(rope.factor * (rope.original if rope.kind == "yarn" else rope.longest)))
