"""Adapter folders of PaddleNLP: LoRA, VeRA and LoKr here, whose layers have our names and layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np

from paddle_sft.adapters.arrays import Arrays
from paddle_sft.adapters.attach import base_linears, facts_of
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.paddlenlp_folder import MERGE, as_float32, read_arrays, read_config, tag_as_stored
from paddle_sft.adapters.paddlenlp_model import REFT_FILES, read_prefix, read_reft
from paddle_sft.adapters.plain import lora_config
from paddle_sft.adapters.saved import SavedAdapter
from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import from_float32
from paddle_sft.models.linears import features

Weights = Dict[str, Dict[str, np.ndarray]]
"""Path of a layer -> end of a weight's name -> array, as it is stored."""


def read_lora(folder: Path, network: Any) -> SavedAdapter:
    """A LoRA folder. LoRA-GA's, too, which holds the start of its factors beside them: plain LoRA of twice the rank.

    Raises:
        ModelError: another base's, a share of a run split over devices, or something that can't be honoured.
    """
    content = read_config(folder, "lora_config.json")
    _require_off(content, folder, {"pissa": "subtracted the adapter's start from the base", "use_mora": "is MoRA",
                                   "do_qat": "trained beside a base that was rounded"})  # fmt: skip
    has_mixer = bool(content.get("lora_use_mixer"))
    ends = {"lora_A": "lora_a", "lora_B": "lora_b", **({"lora_AB": "lora_mixer"} if has_mixer else {})}
    layers, whole = _sorted(folder, "lora", list(ends), network)
    rank, rslora = int(content.get("r", 8)), bool(content.get("rslora"))
    ranks = {path: int(found["lora_A"].shape[1]) for path, found in layers.items()}
    # scaling stays what it was, and is alpha / rank here of the rank in the folder
    grown = {path: (one / rank) ** (0.5 if rslora else 1.0) for path, one in ranks.items()}
    alpha = float(content.get("lora_alpha", 8))
    dropout = float(content.get("lora_dropout") or 0.0)
    config = lora_config(ranks, {path: alpha * grown[path] for path in ranks}, dropout, rslora)
    arrays = {f"{path}.{ours}": layers[path][theirs] for path in layers for theirs, ours in ends.items()}
    return _saved(folder, "moslora" if has_mixer else "lora", config, arrays, whole, network)


def read_vera(folder: Path, network: Any) -> SavedAdapter:
    """A VeRA folder. PaddleNLP draws A for every layer anew and trains all four: x (A d) (B b) is plain LoRA."""
    content = read_config(folder, "vera_config.json")
    _require_off(content, folder, {"pissa_init": "subtracted the adapter's start from the base",
                                   "do_qat": "trained beside a base that was rounded"})  # fmt: skip
    layers, whole = _sorted(folder, "vera", ["vera_A", "vera_B", "vera_b", "vera_d"], network)
    arrays: Dict[str, np.ndarray] = {}
    for path, found in layers.items():
        a, b, out, inner = (as_float32(found[name]) for name in ("vera_A", "vera_B", "vera_b", "vera_d"))
        for name, array, like in (("lora_a", a * inner, "vera_A"), ("lora_b", b * out, "vera_B")):
            arrays[f"{path}.{name}"] = from_float32(array, tag_as_stored(found[like]))
    ranks = {path: int(found["vera_A"].shape[1]) for path, found in layers.items()}
    alpha = float(content.get("vera_alpha", 8))
    config = lora_config(ranks, {path: alpha for path in ranks}, float(content.get("vera_dropout") or 0.0))
    return _saved(folder, "lora", config, arrays, whole, network)


def read_lokr(folder: Path, network: Any) -> SavedAdapter:
    """A LoKr folder: factors are the transposes of ours."""
    content = read_config(folder, "lokr_config.json")
    names = ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"]
    layers, whole = _sorted(folder, "lokr", names, network, all_there=False)
    rank = int(content.get("lokr_dim", 8))
    config = ADAPTERS["lokr"].config(
        lokr_rank=rank,
        lokr_alpha=float(content.get("lokr_alpha") or rank),
        lokr_factor=int(content.get("factor", -1)),
        lokr_decompose_both=bool(content.get("decompose_both")),
        target_modules=tuple(layers),
    )
    arrays = {f"{path}.{end}": np.ascontiguousarray(array.T) for path in layers for end, array in layers[path].items()}
    return _saved(folder, "lokr", config, arrays, whole, network)


READERS: Dict[str, Callable[[Path, Any], SavedAdapter]] = {
    "lora_config.json": read_lora,
    "vera_config.json": read_vera,
    "lokr_config.json": read_lokr,
    "prefix_config.json": read_prefix,
    REFT_FILES: read_reft,
}
"""The file, or pattern of files, that tells a folder's method -> its reader."""


def _require_off(content: Dict[str, Any], folder: Path, keys: Mapping[str, str]) -> None:
    for key, what in keys.items():
        if content.get(key):
            raise ModelError(f"{folder}: {key} is true: the run {what}, and the folder has no adapter of it; {MERGE}")


def _sorted(
    folder: Path, method: str, ends: List[str], network: Any, all_there: bool = True
) -> Tuple[Weights, Dict[str, np.ndarray]]:
    """(weights of the layers, weights that were trained whole)."""
    known, parameters = base_linears(network), dict(network.state_dict())
    layers: Weights = {}
    whole: Dict[str, np.ndarray] = {}
    strange: List[str] = []
    for name, array in read_arrays(folder, method).items():
        path, _, end = name.rpartition(".")
        if end in ends and path in known:
            layers.setdefault(path, {})[end] = array
        elif name in parameters:
            whole[name] = array
        else:
            strange.append(name)
    lacking = [f"{path}.{end}" for path, found in layers.items() for end in ends if all_there and end not in found]
    if strange or lacking or not layers:
        said = [f"{len(strange)} weights are of no layer of the base ({', '.join(strange[:3])})"] if strange else []
        said += [f"{len(lacking)} are missing ({', '.join(lacking[:3])})"] if lacking else []
        raise ModelError(
            f"{folder} does not fit the base model: {'; '.join(said) or 'it has no weights of its layers'}; "
            "give the base that it was trained on"
        )
    return {path: layers[path] for path in known if path in layers}, whole


def _saved(
    folder: Path, method: str, config: Any, arrays: Dict[str, np.ndarray], whole: Dict[str, np.ndarray], network: Any
) -> SavedAdapter:
    linears = base_linears(network)
    shapes = {path: features(linears[path]) for path in config.target_modules}
    sizes = {name: tuple(array.shape) for name, array in whole.items()}
    return SavedAdapter(folder, method, config, shapes, Arrays({**arrays, **whole}), sizes, facts=facts_of(network))
