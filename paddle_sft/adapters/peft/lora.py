"""LoRA in PEFT's folders."""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Tuple

from paddle_sft.adapters.peft.modules import Modules
from paddle_sft.adapters.peft.settings import Settings
from paddle_sft.adapters.peft.table import Layers, Table, Weight, transposed
from paddle_sft.adapters.plain import as_lora, lora_config
from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.core.errors import ModelError

_A, _B, _MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
_EMBEDDING_A = "lora_embedding_A"

_CHANGES_THE_BASE = ("pissa", "olora", "corda", "lora_ga")
"""Initialisations that subtract the adapter's first values from the base: a folder fits the changed base only."""


def pattern_value(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of a layer in PEFT's rank_pattern or alpha_pattern: keys are expressions for the end of a name."""
    found = (key for key in patterns if re.match(rf"(.*\.)?({key})$", module))
    return patterns.get(next(found, ""), default)


def _read(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    start = content.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise ModelError(
            f"init_lora_weights is {start!r}: the adapter was trained beside a changed base. Save it again in PEFT "
            "with save_pretrained(folder, path_initial_model_for_weight_conversion=...), which writes plain LoRA"
        )
    names = {path: layers.modules.theirs(path) for path in layers.of}
    ranks = {path: int(found.get(_A, found.get(_EMBEDDING_A)).shape[0]) for path, found in layers.of.items()}
    wanted = content.get("rank_pattern") or {}
    for path, name in names.items():
        if ranks[path] != pattern_value(wanted, name, content.get("r", 8)):
            said = pattern_value(wanted, name, content.get("r", 8))
            raise ModelError(f"r (or rank_pattern) says rank {said!r} for {name}, its weights have rank {ranks[path]}")
    default = float(content.get("lora_alpha", 8))
    patterns = content.get("alpha_pattern") or {}
    alphas = {path: float(pattern_value(patterns, name, default)) for path, name in names.items()}
    dropout = float(content.get("lora_dropout") or 0.0)
    method = "dora" if content.get("use_dora") else "lora"
    magnitudes = sum(_MAGNITUDE in found for found in layers.of.values())
    if magnitudes not in (0, len(layers.of)) or (method == "dora") != bool(magnitudes):
        raise ModelError(f"use_dora is {content.get('use_dora')}, and {magnitudes} of the layers have a magnitude")
    return method, lora_config(ranks, alphas, dropout, bool(content.get("use_rslora")))


def _write(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    config, own = saved.config, {path: saved.config.for_path(path) for path in saved.shapes}
    plain = lora_config(
        {path: one.lora_rank for path, one in own.items()}, {path: one.lora_alpha for path, one in own.items()}
    )
    return {
        "r": plain.lora_rank,
        "lora_alpha": plain.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.rslora,
        "use_dora": saved.method == "dora",
        "bias": "none",
        "init_lora_weights": True,
        "rank_pattern": {modules.theirs(path): rank for path, rank in plain.rank_pattern.items()},
        "alpha_pattern": {modules.theirs(path): alpha for path, alpha in plain.alpha_pattern.items()},
    }


def _as_lora(saved: SavedAdapter) -> SavedAdapter:
    return saved if saved.method == "dora" else as_lora(saved)


SETTINGS = Settings(
    honoured=(
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
        "init_lora_weights", "trainable_token_indices",
    ),
    only={
        "bias": ("none",), "lora_bias": (False,), "layer_replication": (None,),
        "target_parameters": (None, []), "use_qalora": (False,), "alora_invocation_tokens": (None,),
        "use_bdlora": (None,), "arrow_config": (None,), "kasa_config": (None,), "monteclora_config": (None,),
        "velora_config": (None,),
    },
    inert=("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
)  # fmt: skip

TABLE = Table(
    peft_type="LORA",
    weights=(
        Weight("lora_a", _A, transposed, transposed),
        Weight("lora_b", _B, transposed, transposed),
        Weight("magnitude", _MAGNITUDE),
    ),
    embedding=(
        Weight("lora_a", _EMBEDDING_A, transposed, transposed),
        Weight("lora_b", "lora_embedding_B", transposed, transposed),
    ),
    optional=(_MAGNITUDE,),
    settings=SETTINGS,
    read=_read,
    write=_write,
    prepare=_as_lora,
    has_token_rows=True,
)
