"""A step is the same step, in its loss and in every gradient, however its samples are computed: to 1e-5 in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paddle_sft.arguments.check import PACKINGS
from paddle_sft.packing.packers import PACKERS
from tests import tiny
from tests.invariants import steps

NUM = 12
PLAIN = {"packing": "none", "per_device_train_batch_size": NUM}
WAYS = {
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": NUM, "packing": "none"},
    "accumulated by 4": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "packing": "none"},
    "recomputed": {**PLAIN, "recompute": True},
    "recomputed attention layers": {**PLAIN, "recompute": True, "recompute_granularity": "full_attn"},
    "recomputed scores": {**PLAIN, "recompute": True, "recompute_granularity": "core_attn"},
    **{f"packed {name}": {"packing": name, "per_device_train_batch_size": NUM} for name in PACKINGS if name != "none"},
    "packed and recomputed scores": {
        **PLAIN, "packing": "best_fit", "recompute": True, "recompute_granularity": "core_attn",
    },
}  # fmt: skip
METHODS = {"full": {}, "lora": {"lora": True, "lora_rank": 4}}


@pytest.fixture(scope="module")
def files(model_folder, tmp_path_factory):
    """Writes the argument file of a run over the whole set in every step; one way of one method."""
    root = tmp_path_factory.mktemp("ways")
    data = tiny.make_data(root / "data", num_train=NUM)

    def write(name: str, **keys: object) -> Path:
        content = {
            "model_name_or_path": str(model_folder("qwen2")), "dataset_name_or_path": str(data), "do_train": True,
            "output_dir": str(root / name), "max_length": 48, "src_length": 24, "max_steps": 2, "device": "cpu",
            "learning_rate": 0.01, "adam_epsilon": 1e-3, "save_strategy": "no", "logging_steps": 1,
            "disable_tqdm": True, "log_level": "error", "overwrite_output_dir": True, **keys,
        }  # fmt: skip
        (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return root / f"{name}.json"

    return write


@pytest.fixture(scope="module")
def plain(files):
    """Loss and gradients of two padded steps in one process, for each method."""
    made = {}
    for method, keys in METHODS.items():
        file = files(f"plain-{method}", **PLAIN, **keys)
        steps.run(file)
        made[method] = read(file)
    return made


def read(file: Path):
    with np.load(file.parent / file.stem / "gradients.npz") as kept:
        return dict(kept)


def require_same(found, expected):
    """To 1e-5, absolutely and against the largest gradient of the parameter's kind of step."""
    assert found.keys() == expected.keys() and len(expected) > 20
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)
    largest = max(np.abs(array).max() for name, array in expected.items() if "/" in name and "loss" not in name)
    assert largest > 0.01, "gradients so small that they prove nothing"


def test_the_arguments_know_every_packer():
    assert set(PACKINGS) == {"none", *PACKERS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_the_padded_step(files, plain, way, method):
    file = files(f"{way.replace(' ', '-')}-{method}", **WAYS[way], **METHODS[method])
    steps.run(file)
    require_same(read(file), plain[method])
