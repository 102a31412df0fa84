"""paddle-sft doctor --model as a user calls it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from paddle_sft.cli import doctor
from paddle_sft.cli.doctor_model import as_json, look, report_lines
from paddle_sft.cli.machine import Driver, Machine
from paddle_sft.core.tensorfile import TensorFile
from paddle_sft.models.hubs import HUBS
from paddle_sft.models.weights import WEIGHTS_NAME
from tests.cli.test_doctor import A100, SOUND

CPU = replace(SOUND, memory_gb=16.0)


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder("llama", "hf"), tmp_path / "model")


def rows(found, machine: Machine = CPU):
    """Name of a line -> its text."""
    lines = [line.strip().split("  ", 1) for line in report_lines(found, machine)[1:-2]]
    return {line[0]: line[1].strip() for line in lines if len(line) > 1}


def flip_a_bit(path, name):
    file = TensorFile(path)
    content = bytearray(path.read_bytes())
    content[file._start + file._offsets[name][1] - 4] ^= 1
    path.write_bytes(bytes(content))


def test_a_sound_folder_is_described_and_the_code_is_0(folder, capsys):
    assert doctor.main(["--model", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Model {folder}\n") and printed.endswith("\nIt can be trained.\n")
    assert "llama: logits within " in printed and "of transformers 5" in printed


def test_a_folder_that_would_be_refused_gives_1_and_says_what_to_do(folder, capsys):
    (folder / WEIGHTS_NAME).rename(folder / "pytorch_model.bin")
    assert doctor.main(["--model", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "1 thing(s) to mend before it can be trained" in printed and "save the model as safetensors" in printed
    assert "It can be trained" not in printed


def test_reading_the_weights_finds_what_headers_can_not_show(folder, capsys):
    assert doctor.main(["--model", str(folder), "--read-weights"]) == 0
    assert "all 21 weights are there" in capsys.readouterr().out
    flip_a_bit(folder / WEIGHTS_NAME, "model.norm.weight")
    assert doctor.main(["--model", str(folder)]) == 0
    capsys.readouterr()
    assert doctor.main(["--model", str(folder), "--read-weights"]) == 1
    assert "tensor model.norm.weight was changed" in capsys.readouterr().out


def test_a_classifier_is_read_through_too(model_folder, tmp_path, capsys):
    from paddle_sft.models.writer import write_model
    from tests import tiny

    write_model(tmp_path, tiny.load_classifier(model_folder()), "hf")
    shutil.copy(model_folder() / "tokenizer.model", tmp_path)
    shutil.copy(model_folder() / "tokenizer_config.json", tmp_path)
    assert doctor.main(["--model", str(tmp_path), "--read-weights"]) == 0, capsys.readouterr().out


def test_json_has_the_same_for_a_program(folder, capsys):
    assert doctor.main(["--model", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["family"] == "llama" and told["problems"] == [] and told["parameters"] == 21664
    assert told["verified"]["gradients"] <= 1e-5 and told["memory"]["float32"]["full"] == 16 * 21664


def test_on_a_gpu_it_may_train_in_bfloat16(folder):
    found = look(str(folder))
    assert "there is no GPU here" in rows(found)["trains in"] and "memory, bfloat16" not in rows(found)
    gpu = replace(CPU, driver=A100)
    assert rows(found, gpu)["trains in"].startswith("float32, or bfloat16 with")
    assert set(as_json(found, gpu)["memory"]) == {"float32", "bfloat16"}
    assert "NVIDIA A100" in "\n".join(report_lines(found, gpu)) and not CPU.driver.gpus and Driver() == CPU.driver


def test_a_family_that_was_not_measured_is_called_so(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "deepseek_v3"}))
    found = look(str(folder))
    assert rows(found)["family"] == "deepseek_v3: not verified" and len(found.problems) == 1


def test_a_name_is_looked_for_in_the_caches_and_nothing_is_downloaded(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for hub in HUBS.values():
        monkeypatch.setenv(hub.mirror, "http://127.0.0.1:9")  # nobody answers there
        monkeypatch.setenv(hub.home, str(tmp_path / hub.home))
    assert doctor.main(["--model", "owner/tiny"]) == 1
    printed = capsys.readouterr().out
    assert "no cache of a hub has all of it" in printed and str(HUBS["huggingface"].cached("owner/tiny")) in printed
    shutil.copytree(model_folder(), HUBS["aistudio"].cached("owner/tiny"))
    assert doctor.main(["--model", "owner/tiny"]) == 0
    assert capsys.readouterr().out.startswith(f"Model {HUBS['aistudio'].cached('owner/tiny')}\n")


def test_a_path_that_is_not_there_is_no_name(tmp_path, capsys):
    assert doctor.main(["--model", str(tmp_path / "nowhere")]) == 1
    assert f"no model folder {tmp_path / 'nowhere'}" in capsys.readouterr().out
