"""paddle-sft quantize --method, as a user calls it."""

from __future__ import annotations

import json
import re

import pytest

from paddle_sft.arguments import quantize_calibrated as keys
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli.finetune import resolved as all_keys
from paddle_sft.cli.main import main
from paddle_sft.export.slim.deploy import METHODS, WEIGHT_OBSERVERS
from paddle_sft.export.slim.observe import OBSERVERS
from tests import tiny


@pytest.fixture
def data(tmp_path):
    return tiny.make_data(tmp_path / "data", num_train=8, num_dev=3)


def quantize(model, output, *words):
    return main(["quantize", str(model), "--output", str(output), *[str(word) for word in words]])


def refusal(capsys, *arguments):
    """What a call that is refused says."""
    assert quantize(*arguments) == 2
    return capsys.readouterr().err


def report_of(folder):
    return json.loads((folder / "quantisation_report.json").read_text(encoding="utf-8"))


def test_the_arguments_know_the_names():
    assert set(keys.METHODS) == set(METHODS)
    assert set(keys.WEIGHT_OBSERVERS) == set(WEIGHT_OBSERVERS)
    assert set(keys.ACTIVATION_OBSERVERS) == set(OBSERVERS)


def test_it_tells_the_perplexity_before_and_after(model_folder, data, tmp_path, capsys):
    assert quantize(model_folder(), tmp_path / "small", "--method", "ptq", "--calibration_data", data) == 0
    said, report = capsys.readouterr().out, report_of(tmp_path / "small")
    assert "calibrating on 8 samples, measuring on 3 (dev split)" in said
    for part in ("before", "after", "after_with_8_bit_inputs"):
        assert f"perplexity {report[part]['perplexity']:.4f}" in said
    assert main(["generate", "--model_name_or_path", str(tmp_path / "small"), "--prompt", "a cat :"]) == 0


def test_without_a_dev_split_the_samples_behind_the_calibrations_are_measured(model_folder, data, tmp_path, capsys):
    (data / "dev.json").unlink()
    words = ("--method", "ptq", "--calibration_data", data, "--calibration_samples", 5)
    assert quantize(model_folder(), tmp_path / "small", *words) == 0
    assert "calibrating on 5 samples, measuring on 3 (train split, behind those" in capsys.readouterr().out
    said = refusal(capsys, model_folder(), tmp_path / "other", "--method", "ptq", "--calibration_data", data)
    assert "nothing is left to measure on: the train split has 8 samples" in said


@pytest.mark.parametrize("resolved", [False, True])
def test_the_data_keys_of_a_run_hold(model_folder, data, tmp_path, capsys, resolved):
    """A run trains on two samples only; so does the calibration."""
    given = dict(dataset_name_or_path=str(data), max_samples=2, output_dir="x", model_name_or_path="m", do_train=True)
    if resolved:
        (tmp_path / "run.json").write_text(json.dumps(given))
        given = all_keys(load_finetune_arguments([str(tmp_path / "run.json")]))
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps(given))
    assert quantize(model_folder(), tmp_path / "small", "--method", "ptq", "--calibration_data", file) == 0
    assert "calibrating on 2 samples, measuring on 2 (dev split)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--method", "gptq"], "method gptq looks at data; add --calibration_data"),
        (["--method", "gptq", "--calibration_data", "d", "--weight_quantize_algo", "nf4"], "rounds to whole numbers"),
        (["--method", "gptq", "--calibration_data", "d", "--weight_double_quant", "true"], "keeps float32 scales"),
        (["--weight_quantize_algo", "nf4", "--calibration_data", "d"], "calibration_data is .* but method is off"),
        (["--method", "smooth"], "method must be one of ptq, gptq, awq, smoothquant, qat, got 'smooth'$"),
        (["--method", "ptq", "--activation_observer", "max"], "activation_observer must be one of abs_max, avg"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_loads(tmp_path, capsys, words, message):
    assert re.search(message, refusal(capsys, "no_model", tmp_path / "small", *words))


@pytest.mark.parametrize("method", ["ptq", "gptq", "awq", "qat"])
def test_a_folder_of_codes_is_not_quantised_again(model_folder, data, tmp_path, capsys, method):
    codes = tmp_path / "codes"
    assert quantize(model_folder(), codes, "--weight_quantize_algo", "nf4") == 0
    said = refusal(capsys, codes, tmp_path / "small", "--method", method, "--calibration_data", data)
    assert "codes is quantised already (nf4, blocks of 64: 14 layers); name the model of floats" in said


def test_a_folder_that_is_in_use_is_not_touched(model_folder, data, tmp_path, capsys):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine.txt").write_text("mine")
    said = refusal(capsys, model_folder(), tmp_path / "small", "--method", "ptq", "--calibration_data", data)
    assert "is not empty; name another folder" in said and [p.name for p in (tmp_path / "small").iterdir()] == [
        "mine.txt"
    ]


def test_a_model_that_no_qat_run_left_has_no_input_scales(model_folder, data, tmp_path, capsys):
    said = refusal(capsys, model_folder(), tmp_path / "small", "--method", "qat", "--calibration_data", data)
    assert "no readable activation_scales.json" in said and "train with qat, or use method ptq" in said
