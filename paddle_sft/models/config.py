"""config.json of either layout, in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Mapping

from paddle_sft.core.errors import ModelError
from paddle_sft.models.catalogue import FAMILIES, find_family
from paddle_sft.models.family import REQUIRED, find_named

CONFIG_NAME = "config.json"


def read_config(path: Path) -> Dict[str, Any]:
    """Read a model folder's config.json (or that file itself) and spell it the way PaddleNLP 3.0.0b4 reads it.

    transformers 5 moved rope_theta and rope_scaling into rope_parameters, and torch_dtype to dtype; PaddleNLP ignores
    the new keys and falls back to theta 10,000 without a word.

    Raises:
        ModelError: no such file, not JSON, or a model that doesn't load exactly.
    """
    path = Path(path)
    file = path / CONFIG_NAME if path.is_dir() else path
    if not file.is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) if path.is_dir() else "no such folder"
        raise ModelError(
            f"{path} has no {CONFIG_NAME} (found: {found or 'an empty folder'}); name a complete model folder"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} must hold a JSON object, it holds a {type(config).__name__}")
    config = _with_main_names(spell_as_paddlenlp(config))
    _require_counts(config, file)
    family = find_family(config, str(file))
    if "paddlenlp_version" in config:  # written by PaddleNLP, which leaves out what are its own defaults
        return config
    return {**family.defaults(), **config}


_COUNTS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "n_layer", "n_head", "n_embd", "n_positions", "n_inner", "ffn_dim", "word_embed_proj_dim",
)  # fmt: skip


def _require_counts(config: Dict[str, Any], file: Path) -> None:
    given = {"vocab_size": None, **{key: config[key] for key in _COUNTS if config.get(key) is not None}}
    wrong = [f"{key} is {value!r}" for key, value in given.items() if type(value) is not int or value < 1]
    if wrong:
        raise ModelError(f"{file}: {', '.join(wrong)}; a whole number above 0 is needed")


def spell_as_paddlenlp(config: Dict[str, Any]) -> Dict[str, Any]:
    """The keys of transformers 5 as those of transformers 4, which PaddleNLP knows."""
    config = dict(config)
    parameters = config.pop("rope_parameters", None)
    config.update(_spell_rope(config.get("rope_scaling") or parameters or {}))  # transformers takes them in this order
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return config


def _spell_rope(given: Dict[str, Any]) -> Dict[str, Any]:
    """rope_theta, partial_rotary_factor and rope_scaling of a config's rope_parameters or rope_scaling."""
    found = {key: given[key] for key in ("rope_theta", "partial_rotary_factor") if key in given}
    scaling = {key: value for key, value in given.items() if key not in found}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if any(isinstance(value, dict) for value in scaling.values()):
        kind = "one for each type of layer"
    if given:
        found["rope_scaling"] = None if kind == "default" else {**scaling, "rope_type": kind}
    return found


def _with_main_names(config: Dict[str, Any]) -> Dict[str, Any]:
    """Other names that transformers takes for a key, as the key: BLOOM's n_embed is its hidden_size."""
    family = FAMILIES.get(config.get("model_type", ""))
    aliases = family.aliases if family else {}
    scaling = config.get("rope_scaling")
    if family and scaling and scaling.get("rope_type") in family.rope_names:
        config = {**config, "rope_scaling": {**scaling, "rope_type": family.rope_names[scaling["rope_type"]]}}
    plain = {key: value for key, value in config.items() if key not in aliases}
    return {**{aliases[key]: value for key, value in config.items() if key in aliases}, **plain}


def to_paddlenlp(config: Dict[str, Any]) -> Any:
    """A PaddleNLP config object from what `read_config` returned."""
    family = FAMILIES[config["model_type"]]
    given = {family.spelled.get(key, key): value for key, value in config.items() if key not in _NOT_FOR_PADDLENLP}
    given["architectures"] = [family.model_class.split(":")[1]]
    made = find_named(family.config_class)(**given)
    made.model_type = config["model_type"]
    return made


_NOT_FOR_PADDLENLP = ("model_type", "transformers_version", "paddle_sft_quantisation")


def to_hugging_face(config: Any, dtype: str) -> Dict[str, Any]:
    """The config.json that transformers reads, from a PaddleNLP config object."""
    family = FAMILIES[config.model_type]
    content: Dict[str, Any] = {"architectures": [family.hf_architecture], "model_type": config.model_type}
    for key, default in family.keys.items():
        unsaid = None if default is REQUIRED else default  # PaddleNLP has no such key, and computes as by this one
        value = getattr(config, family.spelled.get(key, key), unsaid)
        if value is not None or default not in (None, REQUIRED):  # left out, it would mean the default
            content[key] = value
    content.update({key: allowed[0] for key, allowed in family.only.items()})
    if is_classifier({"architectures": config.architectures}):
        content.update({key: getattr(config, key) for key in ("architectures", "id2label", "label2id", "problem_type")})
    content["torch_dtype"] = dtype
    return content


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a sequence classifier."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
