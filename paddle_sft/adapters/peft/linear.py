"""VeRA, LoKr, LoHa, IA3 and OFT in PEFT's folders."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, List, Tuple

import numpy as np

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.peft.modules import Modules
from paddle_sft.adapters.peft.settings import Settings
from paddle_sft.adapters.peft.table import Layers, Table, Weight, as_column, as_row, as_vector, transposed
from paddle_sft.adapters.saved import OF_MODEL, SavedAdapter
from paddle_sft.core.errors import ModelError

_WHILE_TRAINING = ("rank_dropout", "module_dropout", "rank_dropout_scale")
"""Settings of a run of PEFT that say nothing of the trained adapter, and that a run here has not."""
_ONE_RANK = {"rank_pattern": ({}, None), "alpha_pattern": ({}, None)}


def _turned(*names: str) -> Tuple[Weight, ...]:
    return tuple(Weight(name, name, transposed, transposed) for name in names)


def _read_vera(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    if not layers.shared:
        raise ModelError(
            "the folder has no vera_A and vera_B (save_projection was false): only the program that drew them can draw "
            "them again. Save it again in PEFT with save_projection=True"
        )
    config = ADAPTERS["vera"].config(
        vera_rank=int(content["r"]),
        vera_d_initial=float(content.get("d_initial", 0.1)),
        lora_dropout=float(content.get("vera_dropout") or 0.0),
        largest_in=int(layers.shared["base_model.vera_A"].shape[1]),
        largest_out=int(layers.shared["base_model.vera_B"].shape[0]),
    )
    return "vera", config


def _write_vera(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    config = saved.config
    own = {"r": config.vera_rank, "d_initial": config.vera_d_initial, "vera_dropout": config.lora_dropout}
    return {**own, "save_projection": True, "projection_prng_key": 0, "bias": "none"}


VERA = Table(
    peft_type="VERA",
    weights=(Weight("lambda_b", "vera_lambda_b"), Weight("lambda_d", "vera_lambda_d")),
    settings=Settings(
        honoured=("r", "d_initial", "vera_dropout", "save_projection"),
        only={"bias": ("none",)},
        inert=("projection_prng_key",),
    ),
    read=_read_vera,
    write=_write_vera,
    shared=(
        Weight(f"{OF_MODEL}vera_a", "base_model.vera_A", transposed, transposed),
        Weight(f"{OF_MODEL}vera_b", "base_model.vera_B", transposed, transposed),
    ),
)


def _read_lokr(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    config = ADAPTERS["lokr"].config(
        lokr_rank=int(content["r"]),
        lokr_alpha=float(content["alpha"]),
        lokr_factor=int(content.get("decompose_factor", -1)),
        lokr_decompose_both=bool(content.get("decompose_both")),
    )
    return "lokr", config


def _write_lokr(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    config = saved.config
    cut = {"decompose_factor": config.lokr_factor, "decompose_both": config.lokr_decompose_both}
    return {"r": config.lokr_rank, "alpha": config.lokr_alpha, **cut, "rank_pattern": {}, "alpha_pattern": {}}


LOKR = Table(
    peft_type="LOKR",
    weights=_turned("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    settings=Settings(
        honoured=("r", "alpha", "decompose_both", "decompose_factor"),
        only={"use_effective_conv2d": (False,), **_ONE_RANK},
        inert=_WHILE_TRAINING,
    ),
    read=_read_lokr,
    write=_write_lokr,
    optional=("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    has_fan_in_fan_out=False,
)


def _read_loha(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    return "loha", ADAPTERS["loha"].config(loha_rank=int(content["r"]), loha_alpha=float(content["alpha"]))


def _write_loha(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    config = saved.config
    return {"r": config.loha_rank, "alpha": config.loha_alpha, "rank_pattern": {}, "alpha_pattern": {}}


LOHA = Table(
    peft_type="LOHA",
    weights=_turned("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    settings=Settings(
        honoured=("r", "alpha"), only={"use_effective_conv2d": (False,), **_ONE_RANK}, inert=_WHILE_TRAINING
    ),
    read=_read_loha,
    write=_write_loha,
    has_fan_in_fan_out=False,
)


def _read_ia3(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    config = ADAPTERS["ia3"].config()
    turned = [
        layers.modules.theirs(path)
        for path, found in layers.of.items()
        if (found["ia3_l"].shape[0] == 1) != config.for_path(path).scales_input
    ]
    if turned:
        raise ModelError(
            f"IA3 scales the input of {', '.join(turned[:3])} there and its output here, or the other way round: here "
            "the inputs of the last layers of feed-forward networks are scaled, whatever feedforward_modules says. "
            "Merge the adapter with PEFT (merge_and_unload) and use the merged model"
        )
    return "ia3", config


def _write_ia3(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    names = {path: modules.theirs(path) for path in saved.shapes}
    inputs = [name for path, name in names.items() if saved.config.for_path(path).scales_input]
    return {"target_modules": list(names.values()), "feedforward_modules": inputs}  # PEFT wants the same spelling


def _turn_ia3(saved: SavedAdapter) -> SavedAdapter:
    """PEFT keeps l as a row where it scales the input, and as a column where it scales the output."""
    arrays = {}
    for path in saved.shapes:
        turn = as_row if saved.config.for_path(path).scales_input else as_column
        arrays[f"{path}.ia3_l"] = turn(np.asarray(saved.file.read(f"{path}.ia3_l")))
    rest = {name: saved.file.read(name) for name in saved.file.specs if name not in arrays}
    return replace(saved, file=Arrays({**rest, **arrays}))


IA3 = Table(
    peft_type="IA3",
    weights=(Weight("ia3_l", "ia3_l", back=as_vector),),
    settings=Settings(honoured=("feedforward_modules",), only={}, inert=("init_ia3_weights",)),
    read=_read_ia3,
    write=_write_ia3,
    prepare=_turn_ia3,
)


def _read_oft(content: Dict[str, Any], layers: Layers) -> Tuple[str, Any]:
    sizes: List[int] = []
    for path, found in layers.of.items():
        sizes.append(layers.modules.shapes[path][0] // int(found["oft_R.weight"].shape[0]))
    given = int(content.get("oft_block_size") or 0) or max(sizes)
    terms = int(content.get("num_cayley_neumann_terms", 5)) if content.get("use_cayley_neumann") else 0
    if terms and _version(content) < (0, 18):
        raise ModelError(
            "the folder was written by PEFT before 0.18.0, which computed the Cayley-Neumann series otherwise; train "
            "it again with a later PEFT, or merge it with the PEFT that wrote it (merge_and_unload)"
        )
    config = ADAPTERS["oft"].config(oft_block_size=given, oft_neumann_terms=terms)
    for path, size in zip(layers.of, sizes):
        if config.block_size(layers.modules.shapes[path][0]) != size:
            raise ModelError(
                f"OFT has blocks of {size} in {layers.modules.theirs(path)} and of {given} elsewhere (r was given, not "
                "oft_block_size); here one size holds for all layers. Merge the adapter with PEFT (merge_and_unload)"
            )
    return "oft", config


def _version(content: Dict[str, Any]) -> Tuple[int, ...]:
    """(major, minor) of the PEFT that wrote a folder; (0, 0) where it doesn't say, as before 0.18."""
    found = re.match(r"(\d+)\.(\d+)", str(content.get("peft_version") or ""))
    return tuple(int(part) for part in found.groups()) if found else (0, 0)


def _write_oft(saved: SavedAdapter, modules: Modules) -> Dict[str, Any]:
    terms = saved.config.oft_neumann_terms
    series = {"use_cayley_neumann": terms > 0, "num_cayley_neumann_terms": terms or 5}
    rest = {"r": 0, "module_dropout": 0.0, "bias": "none", "coft": False, "block_share": False}
    return {"oft_block_size": saved.config.oft_block_size, **series, **rest}


OFT = Table(
    peft_type="OFT",
    weights=(Weight("oft_r", "oft_R.weight"),),
    settings=Settings(
        honoured=("r", "oft_block_size", "use_cayley_neumann", "num_cayley_neumann_terms"),
        only={"bias": ("none",), "coft": (False,), "block_share": (False,)},
        inert=("module_dropout", "eps"),
    ),
    read=_read_oft,
    write=_write_oft,
)
