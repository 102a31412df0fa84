"""Runs over several sources, in stages, streamed, with several dev sets: as a user starts them."""

from __future__ import annotations

from functools import partial

import pytest

from paddle_sft.cli import run_data
from paddle_sft.train import hybrid
from paddle_sft.train.stream_feed import StreamFeed
from tests import tiny
from tests.e2e.commands import TRAIN, checkpoints, differences, here, read_json, rewind


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Instruction data in two files, and running text."""
    folder = tmp_path_factory.mktemp("sources")
    for name, num, seed in (("law", 30, 1), ("chat", 14, 2), ("exam", 7, 3), ("quiz", 3, 4)):
        tiny.write_lines(folder / f"{name}.json", tiny.rows(num, seed))
    texts = [{"text": row["src"] + row["tgt"] + row["src"]} for row in tiny.rows(9, 5, longest=30)]
    tiny.write_lines(folder / "books.json", texts)
    named = {"law": str(folder / "law.json"), "chat": str(folder / "chat.json")}
    return {**named, "books": {"path": str(folder / "books.json"), "format": "text"}}


@pytest.fixture
def seen(monkeypatch):
    """The places of the samples of every training batch, in order."""
    places = []
    collate = hybrid.collate_rows

    def noting(rows, fill):
        places.append([sample.place for row in rows for sample in row])
        return collate(rows, fill)

    monkeypatch.setattr(hybrid, "collate_rows", noting)
    monkeypatch.setattr(run_data, "StreamFeed", partial(StreamFeed, block_tokens=250))  # several blocks
    return places


MIX = {"law": {"epochs": 0.5}, "chat": {"share": 0.4}, "books": {"max_samples": 4}}
STAGES = [
    {"name": "read", "dataset": "books", "steps": 2},
    {"dataset": "law,chat", "mixing": [0.4, 0.6], "tokens": 400},
    {"epochs": 0.5},
]
RUNS = {
    "mixed": dict(mixing=MIX, mixing_unit="tokens", mixing_exhausted="repeat", num_train_epochs=5),
    "stages": dict(data_stages=STAGES, gradient_accumulation_steps=2, per_device_train_batch_size=1),
    "pretrain": dict(stage="pretrain", mixing={"chat": {"share": 0.4}}, mixing_exhausted="repeat", num_train_epochs=1),
    "streamed": dict(lazy=True, mixing=[0.5, 0.3, 0.2], max_steps=17),
    "streamed stages": dict(lazy=True, data_stages=[{"steps": 7, "dataset": "law"}, {"steps": 8}], shuffle=False),
}


@pytest.mark.parametrize("name", RUNS)
def test_resumed_it_ends_as_the_uninterrupted_run_with_exactly_what_was_not_seen(lab, tmp_path, sources, seen, name):
    output, whole = tmp_path / "out", tmp_path / "whole"
    settings = {
        "max_steps": None,
        "packing": "best_fit",
        "per_device_train_batch_size": 2,
        "save_steps": 3,
        **RUNS[name],
    }
    command = lab.write(output, dataset=sources, dataset_name_or_path=None, lora_dropout=0.1, **settings)
    here(TRAIN, command).succeeded()
    order = list(seen)
    output.rename(whole)
    rewind(whole, output, checkpoints(whole)[1])
    seen.clear()
    here(TRAIN, command).succeeded()
    assert differences(whole, output) == []
    assert 0 < len(seen) < len(order) and order[-len(seen) :] == seen


def test_the_plan_says_what_each_source_gives_and_the_run_gives_it(lab, tmp_path, sources):
    outcome = lab.train(
        tmp_path / "out", dataset=sources, dataset_name_or_path=None, max_steps=None, num_train_epochs=2, save_steps=99,
        packing="best_fit", mixing={"law": {"epochs": 2}, "chat": {"share": 0.25}}, mixing_unit="tokens",
        mixing_exhausted="repeat",
    )  # fmt: skip
    assert "mixing, in the first epoch" in outcome.out
    (table,) = read_json(tmp_path / "out" / "plan.json")["mixing"]
    planned = {row["source"]: row for row in table["sources"]}
    assert planned["law"]["samples"] == 60 and planned["law"]["epochs_of_run"] == 4
    assert planned["chat"]["tokens_share"] == pytest.approx(0.25, abs=0.02)
    state = read_json(tmp_path / "out" / "trainer_state.json")
    assert sum(state["tokens_by_source"].values()) == state["num_input_tokens_seen"] == state["train_tokens"]
    assert state["tokens_by_source"]["law"] == 2 * planned["law"]["tokens"]
    assert state["tokens_by_source"]["chat"] / state["train_tokens"] == pytest.approx(0.25, abs=0.02)
    assert state["log_history"][-1]["num_input_tokens_seen"] == state["num_input_tokens_seen"]


def test_each_dev_set_is_reported_and_may_choose_the_best_checkpoint(lab, tmp_path, sources):
    folder = tmp_path / "out"
    exam, quiz = (sources["law"].replace("law", name) for name in ("exam", "quiz"))
    settings = dict(
        eval_dataset={"exam": exam, "quiz": quiz}, do_eval=True, evaluation_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, metric_for_best_model="quiz_loss",
    )  # fmt: skip
    outcome = lab.train(folder, **settings)
    assert "not used, for eval_dataset names the dev sets: " in outcome.out and "dev.json" in outcome.out
    found = read_json(folder / "eval_results.json")
    parts = {name: (found[f"eval_{name}_loss"], found[f"eval_{name}_tokens"]) for name in ("exam", "quiz")}
    total = sum(loss * tokens for loss, tokens in parts.values())
    assert found["eval_loss"] == pytest.approx(total / found["eval_tokens"], rel=1e-9)
    assert (found["eval_exam_samples"], found["eval_quiz_samples"], found["eval_samples"]) == (7, 3, 10)
    history = read_json(folder / "trainer_state.json")["log_history"]
    best = min(entry["eval_quiz_loss"] for entry in history if "eval_quiz_loss" in entry)
    assert found["eval_quiz_loss"] == best
    wrong = here(TRAIN, lab.write(tmp_path / "wrong", **{**settings, "metric_for_best_model": "eval_quizz_loss"}))
    wrong.refused("metric_for_best_model is eval_quizz_loss, and no dev set is called 'quizz'", "exam_loss, quiz_loss")


def test_val_size_takes_dev_rows_from_the_training_data(lab, tmp_path, sources):
    outcome = lab.train(
        tmp_path / "out", dataset_name_or_path=sources["law"], val_size=0.2, do_eval=True, max_steps=1, save_steps=9
    )
    assert "24 rows -> 24 samples" in outcome.out and "6 rows -> 6 samples" in outcome.out
    assert read_json(tmp_path / "out" / "eval_results.json")["eval_samples"] == 6
