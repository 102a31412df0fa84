"""PaddleNLP's adapters that belong to the model as a whole: prefix tuning and ReFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Set

import numpy as np

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.attach import facts_of
from paddle_sft.adapters.base import ModelFacts
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.paddlenlp_folder import as_float32, read_arrays, read_config
from paddle_sft.adapters.saved import OF_MODEL, SavedAdapter
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.packed import settings_of
from paddle_sft.models.pdparams import read_pdparams
from paddle_sft.models.rope import Rope, rope_of

REFT_FILES = "intkey_layer.*.bin"
"""ReFT's own config is called config.json, as a model's is; these files tell its folder."""
_PREFIX_FAMILIES = {"llama": True, "mistral": False, "qwen2": True, "bloom": False}
"""Those of the families here that PaddleNLP trains a prefix of -> whether it counts the text's rotary positions from 0
behind one. (Bloom has none; Mistral counts on, as all do here.)"""
_TABLE = {"0.weight"}
_PROJECTED = {"0.weight", "1.weight", "1.bias", "3.weight", "3.bias"}
_EDITS: Dict[str, Any] = {
    "LoreftIntervention": (
        "NoreftIntervention",
        {
            "rotate_layer.weight": "projection.weight",
            "learned_source.weight": "source.weight",
            "learned_source.bias": "source.bias",
        },
    ),
    "TinyIntervention": ("TinyIntervention", {f"param_{end}": f"param_{end}" for end in "ABab"}),
}
"""PaddleNLP's edit -> (the edit here that computes it, its names -> ours).

PaddleNLP's LoReFT has an orthonormal R at its start only, and trains it freely: h + R^T (W h + b - R h) with any R,
which is NoreftIntervention.
"""


def read_prefix(folder: Path, network: Any) -> SavedAdapter:
    """A prefix-tuning folder. A projection is computed, and what it makes is a prefix of keys and values here.

    Raises:
        ModelError: another base's, a share of a run split over devices, or something that can't be honoured.
    """
    content, facts = read_config(folder, "prefix_config.json"), facts_of(network)
    if network.config.model_type not in _PREFIX_FAMILIES:
        raise ModelError(
            f"{folder} is a prefix of PaddleNLP, which has those for {', '.join(_PREFIX_FAMILIES)}, and the base is "
            f"{network.config.model_type}; give the base that it was trained on"
        )
    _require_sizes(content, facts, folder)
    found = {name: as_float32(array) for name, array in read_arrays(folder, "prefix").items()}
    wanted = _PROJECTED if content.get("prefix_projection") else _TABLE
    _require_names(set(found), wanted, folder)
    num, layers = content["num_prefix_tokens"], facts.num_hidden_layers
    made = _projected(found, folder) if wanted is _PROJECTED else found["0.weight"]
    shape = (num, 2, layers, facts.num_key_value_heads, facts.head_dim)
    if made.size != np.prod(shape):
        raise ModelError(
            f"{folder}: the weights make a prefix of {list(made.shape)}, and the config and this base need "
            f"{[num, int(np.prod(shape[1:]))]}; give the base that it was trained on"
        )
    both = made.reshape(shape)  # keys of all layers, then values of all layers
    keys, values = both[:, 0], both[:, 1]
    if _PREFIX_FAMILIES[network.config.model_type]:
        keys = _turned(keys, rope_of(settings_of(network.config)), folder)
    prefix = np.stack([keys, values], axis=2).reshape(num, layers, -1)
    arrays = {f"{OF_MODEL}prefix.{number}": np.ascontiguousarray(prefix[:, number]) for number in range(layers)}
    config = ADAPTERS["prefix_tuning"].config(num_virtual_tokens=num, prefix_projection=False)
    return SavedAdapter(folder, "prefix_tuning", config, {}, Arrays(arrays), {}, facts=facts)


def read_reft(folder: Path, network: Any) -> SavedAdapter:
    """A ReFT folder: a file for each layer, of one edit for both ends of the prompt.

    Raises:
        ModelError: another base's, or something that can't be honoured.
    """
    content, facts = read_config(folder, "config.json"), facts_of(network)
    if network.base_model_prefix != "llama":
        raise ModelError(
            f"{folder} is a ReFT adapter of PaddleNLP, which edits Llama only, and the base is "
            f"{network.config.model_type}; give the base that it was trained on"
        )
    config = _reft_config(content, facts, folder)
    names = _EDITS[_theirs(content, folder)][1]
    arrays: Dict[str, np.ndarray] = {}
    for number in config.layers:
        path = folder / REFT_FILES.replace("*", str(number))
        if not path.is_file():
            raise ModelError(f"{folder} has no {path.name}, which its config.json names; copy it again")
        found = read_pdparams(path)
        _require_names(set(found), set(names), path)
        edit = f"{OF_MODEL}edits.{number}_{config.ends[0]}"
        arrays.update({f"{edit}.{ours}": found[theirs] for theirs, ours in names.items()})
    return SavedAdapter(folder, "reft", config, {}, Arrays(arrays), {}, facts=facts)


def _require_sizes(content: Dict[str, Any], facts: ModelFacts, folder: Path) -> None:
    keys = ("num_prefix_tokens", "num_hidden_layers", "num_attention_heads", "hidden_size")
    lacking = [key for key in keys if not isinstance(content.get(key), int) or content[key] < 1]
    if lacking:
        raise ModelError(f"{folder / 'prefix_config.json'} must have {', '.join(lacking)}, a number of at least 1")
    theirs = {
        "layers": content["num_hidden_layers"],
        "key and value heads": content.get("multi_query_group_num") or content["num_attention_heads"],
        "numbers of a head": content["hidden_size"] // content["num_attention_heads"],
    }
    here = dict(zip(theirs, (facts.num_hidden_layers, facts.num_key_value_heads, facts.head_dim)))
    differ = [f"{here[name]} {name}, the prefix {theirs[name]}" for name in theirs if theirs[name] != here[name]]
    if differ:
        raise ModelError(
            f"{folder} does not fit the base model: the base has {'; '.join(differ)}; give the base that it was "
            "trained on"
        )


def _require_names(found: Set[str], wanted: Set[str], place: Path) -> None:
    strange, lacking = sorted(found - wanted), sorted(wanted - found)
    if strange or lacking:
        said = [f"{', '.join(strange)} is not of this adapter"] * bool(strange)
        said += [f"{', '.join(lacking)} is missing"] * bool(lacking)
        raise ModelError(f"{place}: {'; '.join(said)}; copy it again, or save it again in PaddleNLP")


def _projected(found: Dict[str, np.ndarray], folder: Path) -> np.ndarray:
    try:
        hidden = np.tanh(found["0.weight"] @ found["1.weight"] + found["1.bias"])
        return hidden @ found["3.weight"] + found["3.bias"]
    except ValueError as error:
        raise ModelError(f"{folder}: the shapes of the projection don't fit together: {error}") from error


def _turned(keys: np.ndarray, rope: Rope, folder: Path) -> np.ndarray:
    """Keys [n, layers, heads, size] as they are seen from n tokens further on.

    PaddleNLP counted the text's positions from 0, here (as in PEFT) they go on behind the n tokens of the prefix: each
    query is turned by n more, so the keys are, too, and every product of the two stays what it was.
    """
    if rope.kind in ("dynamic", "longrope"):
        raise ModelError(
            f"{folder}: a prefix of PaddleNLP can't be used on a base with rope_scaling of type {rope.kind!r}: its "
            "keys would turn otherwise for each length of the text. Train it here (adapter prefix_tuning)"
        )
    angles = np.float32(len(keys)) * rope.frequencies(len(keys))
    half = rope.size // 2
    first, second, rest = np.split(keys, [half, 2 * half], axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _theirs(content: Dict[str, Any], folder: Path) -> str:
    """The name of the edit, the same for all layers."""
    types = content.get("intervention_types")
    names = {str(one).rpartition(".")[2].rstrip("'>") for one in types} if isinstance(types, list) else set()
    if len(names) != 1 or not names <= set(_EDITS):
        said = ", ".join(sorted(names)) or "nothing"
        raise ModelError(
            f"{folder / 'config.json'}: intervention_types names {said}; what can be read is one of "
            f"{' and '.join(_EDITS)} for all layers"
        )
    return names.pop()


def _reft_config(content: Dict[str, Any], facts: ModelFacts, folder: Path) -> Any:
    theirs, params = _theirs(content, folder), content.get("intervention_params")
    try:
        layers = tuple(int(one["layer"]) for one in content["representations"])
        width, rank = int(params["embed_dim"]), int(params["low_rank_dimension"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} is not a readable config of ReFT: {error!r}") from error
    if width != facts.hidden_size:
        raise ModelError(
            f"{folder} edits hidden states of {width} numbers, and the base has {facts.hidden_size}; give the base "
            "that it was trained on"
        )
    if content.get("position") is None:
        raise ModelError(
            f"{folder / 'config.json'} has no position: nobody can tell which tokens were edited; write it there, such "
            "as f7+l7 for the first and the last 7 of a prompt"
        )
    of_loreft = {"act_fn": params.get("act_fn") or "linear", "dropout": float(params.get("dropout") or 0.0)}
    try:
        config = ADAPTERS["reft"].config(
            layers=layers,
            position=content["position"],
            intervention_type=_EDITS[theirs][0],
            rank=rank,
            share_weights=True,
            **(of_loreft if theirs == "LoreftIntervention" else {}),  # PaddleNLP's Tiny looks at neither
        )
        config.numbers(facts.num_hidden_layers)
    except ArgumentError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error
    return config
