"""paddle-sft compare: what each run is told, and what is made of their results."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.adapter_methods import METHODS
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli.compare import FULL, arguments_for, parse
from paddle_sft.cli.compare_table import BASE, Row, markdown, plot, table
from paddle_sft.cli.main import main
from paddle_sft.core.errors import ArgumentError
from tests import tiny

CONFIG = {
    "model_name_or_path": "base", "dataset_name_or_path": "data", "output_dir": "x", "do_train": True, "lora": True,
    "lora_rank": 4, "lora_target_modules": ["q_proj"], "learning_rate": 0.01, "max_steps": 2,
    "evaluation_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 2,
}  # fmt: skip


@pytest.mark.parametrize("method", [*METHODS, FULL])
def test_every_method_gets_arguments_that_can_work(tmp_path, method):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(arguments_for(CONFIG, method, {}, tmp_path / method)))
    arguments = load_finetune_arguments([str(file)])
    assert arguments.adapter.adapter == (None if method == FULL else method)
    assert arguments.train.max_steps == 2 and arguments.train.do_eval


def test_keys_of_the_configs_own_method_and_its_learning_rate_hold_for_it_alone(tmp_path):
    own, other = (arguments_for(CONFIG, method, {}, tmp_path) for method in ("lora", "dora"))
    assert (own["lora_rank"], own["learning_rate"]) == (4, 0.01)
    assert "lora_rank" not in other and "learning_rate" not in other and "lora" not in other
    assert own["lora_target_modules"] == other["lora_target_modules"] == ["q_proj"]
    given = arguments_for(CONFIG, "dora", {"lora_rank": "16"}, tmp_path)
    assert given["lora_rank"] == 16


@pytest.mark.parametrize(
    "words, said",
    [
        (["lora"], "no argument file"),
        (["c.json"], "--adapters is missing"),
        (["c.json", "--adapters", "lora,dorra"], "dora"),
        (["c.json", "--adapters", "lora", "--dora.learning_rate", "1"], "dora is not among --adapters"),
        (["c.json", "lora"], "before any --key"),
    ],
)
def test_a_request_that_can_not_work_says_why(words, said):
    with pytest.raises(ArgumentError, match=said):
        parse(words)


def test_words_for_all_and_for_one_are_told_apart():
    found = parse(["c.json", "--adapters", "lora, ia3", "--max_steps", "3", "--ia3.learning_rate=0.1", "--output", "o"])
    assert found.methods == ["lora", "ia3"] and str(found.output) == "o"
    assert found.words == ["--max_steps", "3"] and found.own == {"ia3": {"learning_rate": "0.1"}}


ROWS = [
    Row(BASE, eval_loss=4.6),
    Row("ia3", 4.4, 10, 1000, 2048, 1.0, 2.0, 2**29, 0.02, 5),
    Row("lora", 4.1, 100, 1000, 4096, 1.5, 2.5, 2**29, 0.005, 5),
    Row("bitfit", problem="no | biases"),
]


def test_the_tables_have_the_best_first_and_the_reason_of_a_failure(tmp_path):
    shown = table(ROWS).splitlines()
    assert [line.split()[0] for line in shown] == ["method", "lora", "ia3", BASE, "bitfit"]
    assert shown[4].endswith("no | biases")
    lines = markdown(ROWS).splitlines()
    assert lines[2] == "| lora | 4.1000 | 100 | 10.000% | 4 KiB | 2 s | 512 MiB | 0.005 |"
    assert "not trained: no / biases" in lines[5] and len({line.count("|") for line in lines}) == 1
    plot(tmp_path / "a.png", ROWS, "a $title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_trains_each_and_goes_on_after_a_failure(tmp_path, capsys):
    base = tiny.make_model(tmp_path / "base")
    data = tiny.make_data(tmp_path / "data", 8, 4)
    file = tmp_path / "config.json"
    paths = {"model_name_or_path": str(base), "dataset_name_or_path": str(data), "device": "cpu", "max_steps": 1}
    file.write_text(json.dumps({**CONFIG, **paths}))
    output = tmp_path / "out"
    assert main(["compare", str(file), "--adapters", "lora,bitfit", "--output", str(output)]) == 1
    rows = {row["method"]: row for row in json.loads((output / "comparison.json").read_text())["rows"]}
    assert list(rows) == [BASE, "lora", "bitfit"]
    assert rows["lora"]["num_steps"] == 1 and rows["lora"]["peak_bytes"] > 2**26
    assert rows["lora"]["num_bytes"] == (output / "lora" / "adapter.safetensors").stat().st_size
    assert "trains biases" in rows["bitfit"]["problem"]
    assert "bitfit could not be trained" in capsys.readouterr().out
