"""paddle-sft plan: what it predicts beside what a run takes, what it refuses, and that its advice can be followed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli import plan
from paddle_sft.cli.main import main
from paddle_sft.cli.plan_case import _config_of
from paddle_sft.cli.plan_devices import read_devices
from paddle_sft.core.errors import ArgumentError
from paddle_sft.operators.build import load_operators
from paddle_sft.parallel.shape import ModelShape
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "config" / "plan"
QLORA, LORA, FULL = "llama3_8b_qlora", "llama3_70b_lora", "llama3_70b_sft"
TOLERANCE = 0.05
"""Half of what the page promises: sizes this small have no noise, and a wrong array shows."""


def plan_of(capsys, name, *words):
    """(exit code, the plan as JSON) of a file of config/plan."""
    code = plan.main([str(CONFIGS / f"{name}_argument.json"), *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


# ---- beside runs ---------------------------------------------------------------------------------------------------

_SIZES = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=3, vocab_size=2000)
_NF4 = {"lora": True, "weight_quantize_algo": "nf4", "weight_double_quant": True, "recompute": True}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A model, and text that fills rows."""
    import numpy as np

    folder = tmp_path_factory.mktemp("plan")
    tiny.make_model(folder / "model", **_SIZES)
    random = np.random.default_rng(0)
    tiny.write_lines(folder / "data" / "train.json", [{"text": tiny.sentence(random, 6000)} for _ in range(2)])
    return folder


@pytest.mark.skipif(load_operators() is None, reason="the model of a CPU is that of the compiled operators")
@pytest.mark.parametrize(
    "keys",
    [{}, {"recompute": True, "max_length": 512}, {"lora": True, "gradient_accumulation_steps": 2}, _NF4],
    ids=["full", "full, recompute, longer rows", "lora, accumulation 2", "lora on nf4, recompute"],
)
def test_a_run_takes_what_its_plan_says(lab, tmp_path, keys):
    sys.path.insert(0, str(ROOT / "tools"))
    sys.path.insert(0, str(ROOT / "tools" / "bench"))
    try:
        from benchmark_plan import predict_file
        from measure_memory import measure
    finally:
        del sys.path[:2]
    content = {
        "stage": "pretrain", "model_name_or_path": str(lab / "model"), "dataset_name_or_path": str(lab / "data"),
        "output_dir": str(tmp_path / "run"), "device": "cpu", "do_train": True, "max_steps": 2, "max_length": 256,
        "per_device_train_batch_size": 1, "save_strategy": "no", "disable_tqdm": True, **keys,
    }  # fmt: skip
    file = tmp_path / "run.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert predict_file(file, 1) == pytest.approx(measure(str(file))["peak"], rel=TOLERANCE)


@pytest.mark.skipif(not os.environ.get("PADDLE_SFT_PARALLEL"), reason="half a minute: make parallel sets it")
def test_ranks_take_what_the_plan_of_their_file_says(tmp_path):
    sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools" / "bench")]
    try:
        import benchmark_plan as benchmark
    finally:
        del sys.path[:2]
    names = ("full, tensor with sequence", "lora, pipeline, accumulation 4", "full, sharding stage1")
    cases = [case for case in benchmark.CASES if case.ranks == 2 and case.name in names]
    assert len(cases) == len(names)
    benchmark.make_lab(tmp_path)
    for one in benchmark.measure(tmp_path, cases, 2):
        assert abs(one.difference) < TOLERANCE, one


# ---- the worked examples -------------------------------------------------------------------------------------------


def test_a_model_of_8_billion_in_4_bits_goes_on_a_card_of_24_gb(capsys):
    code, found = plan_of(capsys, QLORA, "--devices", "1x24GB")
    assert code == 0 and found["written"]["fits"] and found["layouts"][0]["keys"] == {}
    assert 5e9 < found["written"]["peak"]["parts"]["weights"] < 6.5e9
    assert not plan_of(capsys, QLORA, "--devices", "1x8GB")[1]["written"]["fits"]


def test_the_keys_of_a_layout_are_an_argument_file_that_fits(capsys):
    code, found = plan_of(capsys, LORA, "--devices", "8x80GB", "--top", "2")
    assert code == 0 and not found["written"]["fits"]
    for layout in found["layouts"]:
        words = [f"--{key}={json.dumps(value).strip(chr(34))}" for key, value in layout["keys"].items()]
        written = plan_of(capsys, LORA, "--devices", "8x80GB", *words)[1]["written"]
        assert written["fits"] and written["peak"] == layout["peak"]


def test_tensor_parallelism_stays_inside_a_node(capsys):
    _, found = plan_of(capsys, LORA, "--devices", "4x2x80GB", "--top", "100")
    degrees = {layout["keys"].get("tensor_parallel_degree", 1) for layout in found["layouts"]}
    assert degrees == {1, 2}


def test_where_nothing_fits_changes_are_named_that_do(capsys):
    code, found = plan_of(capsys, FULL, "--devices", "8x80GB")
    assert code == 1 and not found["fits"] and found["changes"]
    change = found["changes"][0]
    assert change["change"] == "--lora true"
    assert plan_of(capsys, FULL, "--devices", "8x80GB", *change["change"].split())[0] == 0
    assert not any(layout["fits"] for layout in found["layouts"])


@pytest.mark.parametrize(("name", "devices"), [(QLORA, "1x24GB"), (FULL, "8x80GB"), (LORA, "8")])
def test_lines_are_not_wider_than_a_terminal(capsys, name, devices):
    main(["plan", str(CONFIGS / f"{name}_argument.json"), "--devices", devices])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 12 and max(map(len, lines)) <= 120


def test_layouts_that_the_suite_refuses_are_said_and_not_listed(capsys):
    _, found = plan_of(capsys, LORA, "--devices", "8x80GB", "--tensor_parallel_degree", "3", "--top", "100")
    assert "tensor_parallel_degree 3 need a multiple of 3 ranks" in found["refusal"] and found["written"] is None
    words = (QLORA, "--devices", "2x24GB", "--top", "100")
    assert any("tensor" in layout["layout"] for layout in plan_of(capsys, *words)[1]["layouts"])
    _, found = plan_of(capsys, *words, "--lora_dropout", "0.1")
    assert found["layouts"] and not any("tensor" in layout["layout"] for layout in found["layouts"])


def test_an_interleaved_pipeline_is_planned_with_the_layers_of_each_stage(capsys):
    parts = ("--pipeline_parallel_degree", "4", "--virtual_pp_degree", "2")
    _, found = plan_of(capsys, LORA, "--devices", "4x80GB", *parts, "--top", "100")
    written = found["written"]
    assert written["layout"] == "4 pipeline (2 virtual)" and written["stages"][1] == [[10, 20], [50, 60]]
    plain = next(one for one in found["layouts"] if one["layout"] == "4 pipeline")
    assert written["bubble"] == 3 / 35 and written["sent"]["pipeline"] == 2 * plain["sent"]["pipeline"]
    assert plain["keys"]["virtual_pp_degree"] == 1


def test_a_folder_with_a_config_and_no_weights_is_enough(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config("qwen2")), encoding="utf-8")
    assert plan.main([str(tmp_path), "--devices", "2x1.5GB"]) == 0
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "family", "parameters"),
    [
        ("llama3-8b", "llama", 8_030_261_248),
        ("Qwen/Qwen2.5-7B", "qwen2", 7_615_616_512),
        ("mistral-7b", "mistral", 7_248_023_552),
    ],
)
def test_a_known_shape_has_as_many_numbers_as_its_published_weights(name, family, parameters):
    """Of the weight files on the hub."""
    config, _ = _config_of(name)
    assert config["model_type"] == family and ModelShape.of(config, name).parameters == parameters


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["llama3-9b", "--devices", "8x80GB"], "did you mean llama3-8b?"),
        (["llama3-8b", "--devices", "80GB"], "2x8x80GB"),
        (["llama3-8b", "--devices", "8x80"], "in GB or GiB"),
        (["llama3-8b", "--devices", "0x80GB"], "COUNTxMEMORY"),
        (["llama3-8b", "--devices", "12x80GB"], "2x6x80GB"),
        (["llama3-8b", "--devices", "1000000x80GB"], "1,000,000 devices are more than the 16,384"),
        (["llama3-8b", "--devices", "2100x8x80GB"], "16,800 devices are more than the 16,384"),
        (["llama3-8b", "--devices", "8x80GB", "--context", "nan"], "GB of at least 0"),
        (["llama3-8b", "--devices", "8x80GB", "--top", "0"], "--top must be at least 1, got 0"),
        (["llama3-8b", "--devices", "1x1GB"], "--context 1 GB"),
        (["llama3-8b", "--devices", "8x80GB", "--reserve", "100"], "below 100"),
        (["llama3-8b", "--devices", "8x80GB", "--context", "-1"], "GB of at least 0"),
        (["llama3-8b", "--devices", "8x80GB", "--adapter", "vera"], "not vera"),
        (["llama3-8b", "--devices", "8x80GB", "--spectrum_top", "25"], "does not know what spectrum_top trains"),
        (["llama3-8b", "--devices", "8", "--stage", "classification"], "does not know stage classification"),
        (["llama3-8b", "--devices", "8", "--device", "cpu", "--sharding", "stage1 offload"], "leave the word"),
        (["llama3-8b", "--devices", "8x80GB", "--tensor_paralel_degree", "2"], "tensor_parallel_degree"),
    ],
)
def test_what_can_not_be_planned_is_an_error_that_says_what_can(words, said, capsys):
    assert main(["plan", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_family_whose_layers_are_others_is_refused_with_those_that_are_known(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config("gpt2")), encoding="utf-8")
    assert main(["plan", str(tmp_path), "--devices", "8x80GB"]) == 2
    said = capsys.readouterr().err
    assert "is a gpt2 model" in said and "llama, mistral, qwen2, qwen3" in said


def test_devices_are_read_with_their_nodes_and_what_is_left_out():
    devices = read_devices("2x8x80GB", 1.0, 8.0)
    assert (devices.nodes, devices.per_node, devices.number) == (2, 8, 16)
    assert devices.usable == pytest.approx(0.92 * 80e9 - 1e9)
    assert read_devices("64x80GB", 1.0, 8.0).nodes == 8
    assert read_devices("8", 1.0, 8.0).usable == float("inf")
    assert read_devices("1x24GiB", 0.0, 0.0).usable == 24 * 2**30
    with pytest.raises(ArgumentError, match="8x80GB"):
        read_devices("eight", 1.0, 8.0)


def test_every_file_of_the_examples_can_be_run():
    for file in sorted(CONFIGS.glob("*.json")):
        assert load_finetune_arguments([str(file)]).train.do_train
