"""The same samples in a step give the same step, whichever rows they stand in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_sft.arguments.check import PACKINGS
from paddle_sft.cli.entry import run
from paddle_sft.core.tensorfile import TensorFile
from paddle_sft.packing.packers import PACKERS
from tests import tiny


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """Run three whole-set steps with some arguments; returns (losses, adapter arrays)."""
    root = tmp_path_factory.mktemp("packed")
    data = tiny.make_data(root / "data", num_train=20)

    def train(name: str, *more: str):
        output = root / name
        argv = ["--model_name_or_path", str(model_folder()), "--dataset_name_or_path", str(data)]
        argv += ["--output_dir", str(output)]
        argv += "--do_train --lora --lora_rank 4 --max_length 48 --src_length 24 --max_steps 3".split()
        argv += "--logging_steps 1 --overwrite_output_dir".split()
        argv += "--learning_rate 0.01 --save_strategy no --per_device_train_batch_size 20 --disable_tqdm".split()
        assert run("paddle_sft.cli.finetune", argv + list(more)) == 0
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        file = TensorFile(output / "adapter.safetensors")
        return [entry["loss"] for entry in history if "loss" in entry], {name: file.read(name) for name in file.specs}

    return train


def test_the_arguments_know_every_packer():
    assert set(PACKINGS) == {"none", *PACKERS}


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name != "none"])
def test_a_packed_run_is_the_padded_run(trained, packing):
    losses, weights = trained("none", "--packing", "none")
    packed_losses, packed_weights = trained(packing, "--packing", packing)
    np.testing.assert_allclose(packed_losses, losses, rtol=0, atol=1e-5)
    for name, array in weights.items():
        np.testing.assert_allclose(packed_weights[name], array, rtol=0, atol=1e-5, err_msg=name)


def test_packing_with_recompute_is_packing(trained):
    losses, weights = trained("plain", "--packing", "best_fit")
    again_losses, again_weights = trained("recompute", "--packing", "best_fit", "--recompute")
    np.testing.assert_allclose(again_losses, losses, rtol=0, atol=1e-6)
    for name, array in weights.items():
        np.testing.assert_allclose(again_weights[name], array, rtol=0, atol=1e-6, err_msg=name)
