"""An adapter folder whose config somebody has edited, or that another program wrote with values that make no sense."""

from __future__ import annotations

import json
import shutil

import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.saved import ADAPTER_CONFIG
from paddle_sft.adapters.state import read_adapter, save_adapter
from paddle_sft.core.errors import ModelError, PaddleSFTError
from paddle_sft.export.peft import write_peft_folder
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(base, adapter, the same in PEFT's format)"""
    top = tmp_path_factory.mktemp("made")
    base = tiny.make_model(top / "base")
    model = tiny.load(base)
    config = attach(model, "lora", ADAPTERS["lora"].config(lora_rank=2), ["q_proj"])
    (top / "ours").mkdir()
    save_adapter(top / "ours", model, "lora", config)
    write_peft_folder(base, top / "ours", top / "peft")
    return base, top / "ours", top / "peft"


def edited(folder, target, name, changes):
    shutil.copytree(folder, target)
    content = json.loads((target / name).read_text())
    content.update(changes)
    (target / name).write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))
    return target


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(lora_alpha="gone", lora_alfa=4), "'lora_alfa', and adapter lora has no such key .*lora_alpha"),
        (dict(lora_rank="x"), "adapter.json holds a value that adapter lora can't have"),
        (dict(lora_rank=None), "adapter.json holds a value that adapter lora can't have"),
        (dict(lora_rank=0), "can't have: lora_rank must be at least 1"),
        (dict(rank_pattern=3), "holds a value that adapter lora can't have"),
        (dict(alpha_pattern={"q_proj[": 3}), "neither a layer's name nor a regular expression"),
        (dict(lora_rank=3), "don't fit its config"),
        (dict(method="lroa"), "'lroa', did you mean 'lora'"),
        (dict(base=[]), "not a readable adapter config"),
        (dict(format_version=7), "adapter format 7"),
    ],
)
def test_an_edited_adapter_json_says_what_is_wrong(made, tmp_path, changes, said):
    with pytest.raises(PaddleSFTError, match=said):
        read_adapter(edited(made[1], tmp_path / "edited", ADAPTER_CONFIG, changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(r=3), "says rank 3 for model.layers.0.self_attn.q_proj, its weights have rank 2"),
        (dict(r="x"), "says rank 'x'"),
        (dict(lora_alpha=None), "config holds a value that can't be read"),
        (dict(lora_alpha="x"), "config holds a value that can't be read"),
        (dict(rank_pattern={"q_proj[": 3}), "config holds a value that can't be read"),
        (dict(rank_pattern=[1]), "config holds a value that can't be read"),
        (dict(trainable_token_indices=[5]), "names tokens, and there are no rows"),
        (dict(peft_type="FOURIERFT"), r"is 'FOURIERFT'\. Allowed: LORA"),
        (dict(peft_type=None), "peft_type"),
    ],
)
def test_a_config_of_peft_that_makes_no_sense_is_refused(made, tmp_path, changes, said):
    network = tiny.load(made[0])
    with pytest.raises(PaddleSFTError, match=said):
        read_adapter(edited(made[2], tmp_path / "edited", "adapter_config.json", changes), network)


def test_a_truncated_or_changed_file_is_refused(made, tmp_path):
    for name, folder, network in (("ours", made[1], None), ("peft", made[2], tiny.load(made[0]))):
        shutil.copytree(folder, tmp_path / name)
        file = next((tmp_path / name).glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-8])
        with pytest.raises(ModelError, match="cut short"):
            read_adapter(tmp_path / name, network)
    content = bytearray((made[1] / "adapter.safetensors").read_bytes())
    content[-3] ^= 0x41
    shutil.copytree(made[1], tmp_path / "flipped")
    (tmp_path / "flipped" / "adapter.safetensors").write_bytes(bytes(content))
    saved = read_adapter(tmp_path / "flipped")
    with pytest.raises(ModelError, match="damaged|checksum|CRC"):
        for path in saved.shapes:
            saved.update(path)


def test_a_rank_above_the_smaller_side_of_a_matrix_is_told():
    config = ADAPTERS["lora"].config(lora_rank=20)
    assert (
        "1 layers have a rank above their smaller side (b is 32 x 16)"
        in (config.remarks({"a": (32, 64), "b": (32, 16)})["rank"][0])
    )
    assert not config.remarks({"a": (32, 64)})
