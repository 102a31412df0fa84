"""The model families that load exactly, by the `model_type` of their config.json."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.families import (
    bloom,
    gemma,
    gemma2,
    gpt2,
    llama,
    mistral,
    mixtral,
    opt,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
)
from paddle_sft.models.family import Family

FAMILIES: Dict[str, Family] = {
    "llama": llama.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "qwen2_moe": qwen2_moe.FAMILY,
    "mistral": mistral.FAMILY,
    "mixtral": mixtral.FAMILY,
    "phi3": phi3.FAMILY,
    "gemma": gemma.FAMILY,
    "gemma2": gemma2.FAMILY,
    "bloom": bloom.FAMILY,
    "opt": opt.FAMILY,
    "gpt2": gpt2.FAMILY,
}

NOT_VERIFIED = (
    "baichuan", "chatglm", "deepseek_v2", "deepseek_v3", "gptj", "jamba", "mamba", "qwen", "yuan",
)  # fmt: skip
"""Families that PaddleNLP loads, and that nobody compared with transformers here."""


def find_family(config: Mapping[str, Any], place: str) -> Family:
    """The family that a config.json names in `model_type`.

    Raises:
        ModelError: a family that was not compared, or a key of it that the family's class can't honour.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        known = f"{name!r}, which is not verified against transformers" if name in NOT_VERIFIED else f"{name!r}"
        raise ModelError(f"{place}: model_type is {known}; families that load exactly today: {', '.join(FAMILIES)}")
    missing = FAMILIES[name].missing(config)
    if missing:
        raise ModelError(f"{place}: {', '.join(missing)} is not there; a {name} config must give it")
    problems = FAMILIES[name].refused({**FAMILIES[name].defaults(), **config})
    if problems:
        raise ModelError(
            f"{place}: {name} with {'; '.join(problems)} would compute something else than the checkpoint says"
        )
    return FAMILIES[name]


def require_positions(config: Mapping[str, Any], longest: int, before: int = 0) -> None:
    """
    Args:
        before: positions of virtual tokens before every sample.

    Raises:
        ArgumentError: a sample of `longest` tokens goes on where the model's table of positions ends.
    """
    key = FAMILIES[config["model_type"]].last_position
    known = config.get(key)
    if known and before >= known:
        raise ArgumentError(
            f"{before:,} virtual tokens leave no position for a text: the model has vectors for {known:,} ({key} in "
            "its config.json); lower num_virtual_tokens"
        )
    if known and longest + before > known:
        virtual = f" behind {before:,} virtual ones" if before else ""
        raise ArgumentError(
            f"the longest sample has {longest:,} tokens{virtual}, and the model has vectors for {known:,} positions "
            f"({key} in its config.json); set max_length to {known - before} or less, and length_policy to what "
            "becomes of longer samples"
        )


def require_skips(config: Mapping[str, Any], target: int) -> None:
    """
    Raises:
        ArgumentError: positions that skip, up to `target` (pose_max_length), mean nothing to this model.
    """
    family = FAMILIES[config["model_type"]]
    config = {**family.defaults(), **config}
    if family.last_position:
        known = config[family.last_position]
        if target > known:
            raise ArgumentError(
                f"pose_max_length is {target:,}, and the model has vectors for {known:,} positions "
                f"({family.last_position} in its config.json): it can't be extended by skipping; give at most {known}"
            )
    elif "rope_theta" not in family.keys:
        raise ArgumentError(
            f"use_pose_convert skips positions, and a {config['model_type']} model has none: it weighs tokens by how "
            "many others are between them; leave use_pose_convert out, and raise max_length instead"
        )
    windows = [window for window in attention_windows(config) if 0 < window < target]
    if windows:
        raise ArgumentError(
            f"pose_max_length is {target:,}, and {len(windows)} layers of the model look back over {min(windows):,} "
            "tokens only (sliding_window in its config.json): skips would show them distances that a real text never "
            "does; leave use_pose_convert out"
        )


def attention_windows(config: Mapping[str, Any]) -> list:
    """For every layer the tokens a query may look back over, itself included; 0 for no limit."""
    num_layers = config.get("num_hidden_layers") or config.get("n_layer")
    return [FAMILIES[config["model_type"]].window(config, layer) for layer in range(num_layers)]
