"""Spectrum: train the matrices that carry the most signal (Hartford et al. 2024, https://arxiv.org/abs/2406.06623)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from paddle_sft.arguments.files import SUFFIXES, read_file
from paddle_sft.core.errors import ArgumentError

REPORT = "spectrum.json"
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
LIST = "unfrozen_parameters"
"""Key of the list of weights to train, as the authors' program writes it, too."""
_IQR_OF_NORMAL = 1.349
"""What lies between the quartiles of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Ratio:
    """One matrix, measured."""

    name: str
    kind: str
    """Its path without the layer's number: matrices are compared with those of their kind."""
    snr: float
    """Signal-to-noise ratio over the largest singular value. Infinite where nothing is noise."""


def signal_to_noise(matrix: np.ndarray) -> float:
    """Sum of the singular values above the noise's edge over the sum of those below, over the largest.

    The edge is sigma (1 + sqrt(b)), b the shorter over the longer side (Marchenko and Pastur), sigma the distance of
    the quartiles of the singular values over 1.349.

    The singular values are roots of the eigenvalues of the smaller Gram matrix, in double precision: a fraction of the
    time of a decomposition, and exact to 1e-8 of the largest.
    """
    wide = matrix.astype(np.float64)
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    values = np.sqrt(np.clip(np.linalg.eigvalsh(wide @ wide.T), 0.0, None))
    low, high = np.quantile(values, [0.25, 0.75])
    edge = (high - low) / _IQR_OF_NORMAL * (1.0 + math.sqrt(wide.shape[0] / wide.shape[1]))
    signal, noise = values[values > edge].sum(), values[values <= edge].sum()
    largest = float(values.max())
    return float(signal / noise) / largest if noise > 0 and largest > 0 else (math.inf if signal > 0 else 0.0)


def measure(matrices: Iterable[Tuple[str, np.ndarray]]) -> List[Ratio]:
    """The ratios of matrices (name, [in, out]), which are read one after the other; those outside layers are left out,
    for they have none of their kind to be compared with.

    Raises:
        ArgumentError: a matrix with a number that is none.
    """
    found = []
    for name, matrix in matrices:
        if not _LAYER.search(name):
            continue
        if not np.isfinite(matrix).all():
            raise ArgumentError(f"{name} holds NaN or infinite numbers; copy the model again")
        found.append(Ratio(name, kind_of(name), signal_to_noise(matrix)))
    return found


def kind_of(name: str) -> str:
    """llama.layers.7.mlp.up_proj.weight -> mlp.up_proj; experts of a layer are of one kind."""
    inside = name[_LAYER.search(name).end() :]
    return re.sub(r"\.\d+(?=\.)", "", inside).rsplit(".", 1)[0]


def choose_top(ratios: Sequence[Ratio], percent: float) -> List[str]:
    """Names of the matrices with the highest ratios: of each kind so many percent, and at least one."""
    kinds: Dict[str, List[Ratio]] = {}
    for ratio in ratios:
        kinds.setdefault(ratio.kind, []).append(ratio)
    chosen = set()
    for of_kind in kinds.values():
        num = max(1, int(len(of_kind) * percent / 100.0 + 1e-9))
        chosen.update(ratio.name for ratio in sorted(of_kind, key=lambda ratio: -ratio.snr)[:num])
    return [ratio.name for ratio in ratios if ratio.name in chosen]


def make_report(ratios: Sequence[Ratio], percent: float, model: str, extra: Sequence[str] = ()) -> Dict[str, Any]:
    """What is kept in spectrum.json.

    Args:
        extra: names of weights that are trained beside the matrices, such as an embedding.
    """
    measured = [{**asdict(ratio), "snr": ratio.snr if math.isfinite(ratio.snr) else None} for ratio in ratios]
    names = [*choose_top(ratios, percent), *extra]
    return {
        "model": model,
        "top_percent": percent,
        LIST: [f"^{re.escape(name)}$" for name in names],
        "ratios": measured,
    }


def read_patterns(path: str) -> List[str]:
    """The list of weights to train in a file: a report, or the authors' program's JSON or YAML.

    Raises:
        ArgumentError: no such file, or no such list in it.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ArgumentError(f"spectrum_config_path {path} must be a file ending in {', '.join(SUFFIXES)}")
    found = dict(read_file(path)).get(LIST)
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise ArgumentError(f"{path} has no list {LIST}; make one with paddle-sft spectrum MODEL --top 30")
    return found


def report_lines(report: Dict[str, Any]) -> List[str]:
    """The report as a person reads it: per kind, the layers in the order of their ratios."""
    trained = {re.sub(r"\\(.)", r"\1", one[1:-1]) for one in report[LIST]}
    kinds: Dict[str, List[Dict[str, Any]]] = {}
    for ratio in report["ratios"]:
        kinds.setdefault(ratio["kind"], []).append(ratio)
    lines = []
    for kind, ratios in kinds.items():
        ratios.sort(key=lambda ratio: -(math.inf if ratio["snr"] is None else ratio["snr"]))
        chosen = [ratio for ratio in ratios if ratio["name"] in trained]
        best, last = ratios[0]["snr"], ratios[-1]["snr"]
        places = ", ".join(_LAYER.search(ratio["name"]).group(1) for ratio in chosen)
        lines.append(
            f"{kind}: {len(chosen)} of {len(ratios)}, layers {places} (ratios {_shown(best)} to {_shown(last)})"
        )
    return lines


def _shown(snr: Any) -> str:
    return "inf" if snr is None else f"{snr:.3g}"


def write_report(path: Path, report: Dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
