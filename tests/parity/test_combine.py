"""Weighted combinations of adapters compute what PEFT's add_weighted_adapter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.combine import COMBINATIONS, Combination, combine
from paddle_sft.adapters.saved import write_saved
from paddle_sft.adapters.state import load_adapter
from paddle_sft.export.peft import open_adapter
from paddle_sft.models.hub import load_model
from tests.parity import cases
from tests.parity.asking import Reference

TOLERANCE = 2e-5
_ON_MATRICES = {"ties_svd": 2e-4, "magnitude_prune_svd": 2e-4}
"""Two numbers of an update that are equal to rounding may change places at the end of what is kept."""
WEIGHTS = (0.7, -0.4, 0.5)
Measured = Callable[[str, float, float], None]


@pytest.fixture(scope="module")
def folders(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, List[Path]]:
    """(base, three adapters of PEFT with other scalings, layers, and here and there ranks)."""
    folder = tmp_path_factory.mktemp("combine")
    base = cases.make_base(reference, folder / "base", "llama")
    made = []
    for number, settings in enumerate(
        (
            dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
            dict(r=4, lora_alpha=3, target_modules=["q_proj", "up_proj"]),
            dict(r=4, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj"]),
        )
    ):
        made.append(folder / f"adapter{number}")
        reference.ask(
            "make_peft_folder", base=base, kind="LoraConfig", settings=settings, output=made[-1],
            input_ids=cases.input_ids(seed=7).tolist(), logits=folder / "logits", seed=number,
        )  # fmt: skip
    return base, made


class Draws:
    """The zeros and ones of reference/peft_folders.py, drawn for PEFT's layout, in which our arrays are transposed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, shape: Tuple[int, ...], density: float) -> np.ndarray:
        self.count += 1
        drawn = (np.arange(np.prod(shape)) + 7919 * self.count) * 40503 % 65536 / 65536 < density
        return np.ascontiguousarray(drawn.astype(np.float32).reshape(shape[::-1]).T)


@pytest.mark.parametrize("method", COMBINATIONS)
def test_a_combination_computes_what_pefts_does(
    folders: Tuple[Path, List[Path]], reference: Reference, tmp_path: Path, measured: Measured, method: str
) -> None:
    base, adapters = folders
    settings: Dict[str, Any] = dict(weights=list(WEIGHTS), combination_type=method)
    rank = None
    if method.endswith("svd"):
        rank = settings["svd_rank"] = 6
    settings["density"] = None if method in ("linear", "cat", "svd") else 0.6
    ids = cases.input_ids(seed=7)
    reference.ask(
        "combined_logits", base=base, folders=[str(one) for one in adapters], settings=settings,
        input_ids=ids.tolist(), logits=tmp_path / "logits",
    )  # fmt: skip
    opened = [open_adapter(base, one) for one in adapters]
    one = combine(opened, Combination(method, WEIGHTS, rank, 0.6), Draws())
    (tmp_path / "one").mkdir()
    write_saved(tmp_path / "one", one)
    model = load_model(base, "float32").model
    load_adapter(model, tmp_path / "one")
    expected = load_file(str(tmp_path / "logits"))["logits"]
    found = cases.our_logits(model, ids)
    tolerance = _ON_MATRICES.get(method, TOLERANCE)
    measured(f"combination {method}", np.abs(found - expected).max(), tolerance)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
