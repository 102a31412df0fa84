"""Every method is used like any model: it has an argument file, and its adapter answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import disabled
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import load_adapter, save_adapter
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli.main import main
from paddle_sft.models.tokenizers import load_tokenizer
from tests import tiny
from tests.contracts.adapting import plain_base, put

CONFIG = Path(__file__).resolve().parents[2] / "config"
ELSEWHERE = {"bitfit": "qwen2"}
"""Methods that llama has nothing for: it has no biases."""


@pytest.mark.parametrize("method", sorted(ADAPTERS))
def test_there_is_an_argument_file_that_asks_for_it(method):
    file = CONFIG / ELSEWHERE.get(method, "llama") / f"{method}_argument.json"
    arguments = load_finetune_arguments([str(file)])
    assert arguments.adapter.adapter == method and arguments.train.do_train
    written = json.loads(file.read_text(encoding="utf-8"))
    assert "learning_rate" in written or arguments.sources["learning_rate"] == "derived"


def slow_answer(model, ids, num):
    """The likeliest token again and again, the whole row read anew each time."""
    row = list(ids)
    for _ in range(num):
        row.append(int(tiny.logits(model, np.array([row]))[0, -1].argmax()))
    return row[len(ids) :]


@pytest.mark.parametrize("method", sorted(ADAPTERS))
def test_its_adapter_answers_from_a_folder(method, model_folder, tmp_path, capsys):
    base = model_folder(plain_base(method))
    model = tiny.load(base)
    paddle.seed(3)
    config = put(method, model)
    tiny.train_deltas(model, size=0.3)
    save_adapter(tmp_path, model, method, config)
    words = [
        "--model_name_or_path",
        str(base),
        "--lora_path",
        str(tmp_path),
        "--max_new_tokens",
        "5",
        "--device",
        "cpu",
    ]
    capsys.readouterr()
    assert main(["generate", *words, "--prompt", "red cat runs :"]) == 0
    answer = capsys.readouterr().out
    assert "red cat runs :" in answer
    if method == "reft":
        return  # reading the row anew would take what was answered for the prompt: tests/adapters/test_reft.py
    again = tiny.load(base)
    load_adapter(again, tmp_path)
    tokenizer = load_tokenizer(base)
    ids = tokenizer("red cat runs :")["input_ids"]
    tokens = [*slow_answer(again, ids, 5), tokenizer.eos_token_id]
    expected = tokenizer.decode(tokens[: tokens.index(tokenizer.eos_token_id)], skip_special_tokens=True).strip()
    assert expected in answer
    with disabled(again):
        plain = tiny.logits(again, np.array([ids]))
    assert np.abs(tiny.logits(again, np.array([ids])) - plain).max() > 1e-3
