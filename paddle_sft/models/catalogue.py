"""The model families that load exactly, by the `model_type` of their config.json."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from paddle_sft.core.errors import ModelError
from paddle_sft.models.families import bloom, gemma, llama, mistral, qwen2
from paddle_sft.models.family import Family

FAMILIES: Dict[str, Family] = {
    "llama": llama.FAMILY,
    "qwen2": qwen2.FAMILY,
    "mistral": mistral.FAMILY,
    "gemma": gemma.FAMILY,
    "bloom": bloom.FAMILY,
}


def find_family(config: Mapping[str, Any], place: str) -> Family:
    """The family that a config.json names in `model_type`.

    Raises:
        ModelError: a family that was not compared, or a key of it that the family's class can't honour.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        raise ModelError(f"{place}: model_type is {name!r}; families that load exactly today: {', '.join(FAMILIES)}")
    missing = FAMILIES[name].missing(config)
    if missing:
        raise ModelError(f"{place}: {', '.join(missing)} is not there; a {name} config must give it")
    problems = FAMILIES[name].refused(config)
    if problems:
        raise ModelError(
            f"{place}: {name} with {'; '.join(problems)} would compute something else than the checkpoint says"
        )
    return FAMILIES[name]


def attention_windows(config: Mapping[str, Any]) -> list:
    """For every layer the tokens a query may look back over, itself included; 0 for no limit."""
    num_layers = config.get("num_hidden_layers") or config.get("n_layer")
    return [FAMILIES[config["model_type"]].window(config, layer) for layer in range(num_layers)]
