from __future__ import annotations

import json

import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, read_adapter, save_adapter
from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.core.tensorfile import TensorFile
from tests import tiny


@pytest.fixture
def folder(model_folder, tmp_path):
    """A trained LoRA of rank 3 and alpha 5 on a tiny llama."""
    model = tiny.load(model_folder())
    config = attach(model, "lora", LoRAConfig(lora_rank=3, lora_alpha=5.0, lora_dropout=0.125), ["q_proj", "down_proj"])
    tiny.train_deltas(model)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model, "lora", config)
    return tmp_path / "adapter"


def rewrite(folder, **changes):
    file = folder / ADAPTER_CONFIG
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_rank_alpha_and_dropout_are_the_folders_own(folder, model_folder):
    config = load_adapter(tiny.load(model_folder()), folder).config
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout, config.scaling) == (3, 5.0, 0.125, 5 / 3)


def test_names_in_the_file_are_path_and_parameter(folder):
    assert set(TensorFile(folder / ADAPTER_WEIGHTS).specs) == {
        f"llama.layers.{number}.{path}.{name}"
        for number in (0, 1)
        for path in ("self_attn.q_proj", "mlp.down_proj")
        for name in ("lora_a", "lora_b")
    }


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(method="lroa"), "method in .* is 'lroa', did you mean 'lora'"),
        (dict(format_version=2), "adapter format 2, this version reads 1; upgrade"),
        (dict(format_version=...), "adapter format None"),
        (dict(base=...), "not a readable adapter config"),
        (dict(base={"linear_shapes": [1]}), "not a readable adapter config"),
        (dict(lora_rank=4), "don't fit its config: .*lora_a is .*3.*needs .*4"),
        (dict(lora_rank=0), "lora_rank must be at least 1"),
    ],
)
def test_a_config_that_is_wrong_says_where(folder, changes, words):
    rewrite(folder, **changes)
    with pytest.raises(PaddleSFTError, match=words):
        read_adapter(folder)


def test_a_config_cut_short_is_refused(folder):
    (folder / ADAPTER_CONFIG).write_text((folder / ADAPTER_CONFIG).read_text()[:-5])
    with pytest.raises(PaddleSFTError, match="not a readable adapter config"):
        read_adapter(folder)


def test_weights_cut_short_or_gone_are_refused(folder):
    weights = folder / ADAPTER_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PaddleSFTError, match="cut short"):
        read_adapter(folder)
    weights.unlink()
    with pytest.raises(PaddleSFTError, match="adapter.safetensors: No such file"):
        read_adapter(folder)


def test_what_is_no_adapter_folder_says_what_it_is(tmp_path):
    with pytest.raises(PaddleSFTError, match="no adapter folder"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(PaddleSFTError, match="no adapter.json .found: an empty folder.*output_dir or a checkpoint"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PaddleSFTError, match="adapter of another program; .* export --format paddle_sft"):
        read_adapter(tmp_path)
