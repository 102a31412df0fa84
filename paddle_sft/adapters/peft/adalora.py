"""AdaLoRA in PEFT's folders."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import numpy as np

from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.peft.lora import SETTINGS as LORA_SETTINGS
from paddle_sft.adapters.peft.modules import Modules
from paddle_sft.adapters.peft.settings import Settings
from paddle_sft.adapters.peft.table import Layers, Table, Weight, as_column, as_vector, transposed
from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.core.errors import ModelError

_STEPS = ("tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "target_r")


def _read(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    """PEFT multiplies by lora_alpha / (init_r + 1e-5), ours by alpha / init_r: 1e-6 of the update at rank 12.

    A folder of a finished run holds only the rows that the budget left; the others come back as zeros.
    """
    rank = int(content["init_r"])
    for found in layers.of.values():
        lacking = rank - found["lora_A"].shape[0]
        if lacking < 0:
            raise ModelError(f"init_r is {rank}, and an update in the folder has rank {found['lora_A'].shape[0]}")
        for end, axis in (("lora_A", 0), ("lora_E", 0), ("lora_B", 1)):
            width = [(0, 0), (0, 0)]
            width[axis] = (0, lacking)
            found[end] = np.pad(found[end], width)
    config = ADAPTERS["adalora"].config(
        adalora_init_r=rank,
        adalora_target_r=min(rank, int(content.get("target_r", rank))),
        adalora_alpha=float(content["lora_alpha"]),
        adalora_beta1=float(content.get("beta1", 0.85)),
        adalora_beta2=float(content.get("beta2", 0.85)),
        adalora_orth_weight=float(content.get("orth_reg_weight", 0.5)),
        lora_dropout=float(content.get("lora_dropout") or 0.0),
    )
    return "adalora", config


def _write(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    config = saved.config
    return {
        "init_r": config.adalora_init_r,
        "target_r": config.adalora_target_r,
        "lora_alpha": config.adalora_alpha,
        "lora_dropout": config.lora_dropout,
        "beta1": config.adalora_beta1,
        "beta2": config.adalora_beta2,
        "orth_reg_weight": config.adalora_orth_weight,
        "deltaT": config.adalora_delta_t,
        "total_step": 1,  # PEFT asks for a number; it counts while training only
        "bias": "none",
    }


TABLE = Table(
    peft_type="ADALORA",
    weights=(
        Weight("lora_a", "lora_A", transposed, transposed),
        Weight("lora_b", "lora_B", transposed, transposed),
        Weight("lora_e", "lora_E", as_column, as_vector),
    ),
    settings=Settings(
        honoured=("init_r", "lora_alpha", "lora_dropout", "rank_pattern", "trainable_token_indices"),
        only={key: value for key, value in LORA_SETTINGS.only.items()},
        inert=(*LORA_SETTINGS.inert, *_STEPS, "r", "use_rslora", "init_lora_weights", "alpha_pattern"),
    ),
    read=_read,
    write=_write,
    has_token_rows=True,
)
