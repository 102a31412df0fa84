"""Stage classification typed as a user types it: train, evaluate, predict, resume, merge, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import tiny
from tests.e2e.commands import GENERATE, MERGE, TRAIN, checkpoints, differences, here, read_json, rewind

TASK = dict(stage="classification", src_length=None, evaluation_strategy="steps", eval_steps=2, save_steps=2)
LORA, FULL = dict(lora=True, lora_dropout=0.1), dict(lora=None, learning_rate=1e-3)


def labelled_rows(num, seed, several=False):
    """Texts that name animals, with a label that says which."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(num):
        text = tiny.sentence(random, int(random.integers(3, 9)))
        found = [name for name in ("bird", "cat", "dog") if name in text]
        rows.append({"text": text, "label": found if several else (found or ["none"])[0]})
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    tiny.write_lines(folder / "train.json", labelled_rows(30, 1))
    tiny.write_lines(folder / "dev.json", labelled_rows(12, 2))
    return folder


@pytest.fixture
def task(data):
    return {**TASK, "dataset_name_or_path": str(data)}


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_resuming_from_any_checkpoint_ends_as_the_uninterrupted_run(lab, task, tmp_path, method):
    output, whole = tmp_path / "out", tmp_path / "whole"
    settings = {**task, **method, "max_steps": 5, "packing": "best_fit", "max_length": 24}
    command = lab.write(output, **settings)
    here(TRAIN, command).succeeded()
    output.rename(whole)
    assert checkpoints(whole) == [2, 4]
    for step in checkpoints(whole):
        rewind(whole, output, step)
        here(TRAIN, command).succeeded()
        assert differences(whole, output) == []


def test_a_trained_classifier_evaluates_and_labels_alike_wherever_it_is_read_from(lab, task, tmp_path):
    lab.train(tmp_path / "out", **task, do_predict=True, load_best_model_at_end=True, metric_for_best_model="f1")
    merged = tmp_path / "merged"
    here(
        MERGE, "--model_name_or_path", lab.model, "--lora_path", tmp_path / "out", "--output_path", merged,
        "--format", "hf", "--device", "cpu",
    ).succeeded()  # fmt: skip
    alone = dict(do_train=None, do_eval=True, do_predict=True, max_steps=None, save_steps=None, eval_steps=None,
                 evaluation_strategy=None)  # fmt: skip
    places = {
        "adapter": dict(lora_path=str(tmp_path / "out")),
        "merged": dict(lora=None, model_name_or_path=str(merged)),
    }
    expected, results = read_predictions(tmp_path / "out"), read_json(tmp_path / "out" / "eval_results.json")
    for name, place in places.items():
        lab.train(tmp_path / name, **{**task, **alone, **place})
        again = read_json(tmp_path / name / "eval_results.json")
        assert {key: again[key] for key in ("eval_accuracy", "eval_f1")} == {
            key: results[key] for key in ("eval_accuracy", "eval_f1")
        }
        for one, other in zip(read_predictions(tmp_path / name), expected):
            assert (one["text"], one["label"], one["output"]) == (other["text"], other["label"], other["output"])
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    best = [
        entry["eval_f1"]
        for entry in read_json(tmp_path / "out" / "trainer_state.json")["log_history"]
        if "eval_f1" in entry
    ]
    assert results["eval_f1"] == max(best)


def read_predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.json").read_text(encoding="utf-8").splitlines()]


def test_metrics_are_those_of_the_predictions_over_the_whole_dev_set(lab, task, data, tmp_path):
    outcome = lab.train(tmp_path / "out", **task, do_predict=True, per_device_eval_batch_size=5)
    rows, results = read_predictions(tmp_path / "out"), read_json(tmp_path / "out" / "eval_results.json")
    assert [row["text"] for row in rows] == [row["text"] for row in labelled_rows(12, 2)]
    assert results["eval_accuracy"] == pytest.approx(np.mean([row["label"] == row["output"] for row in rows]))
    loss = np.mean([-np.log(row["probabilities"][row["label"]]) for row in rows])
    assert results["eval_loss"] == pytest.approx(loss, abs=1e-4)
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["output"] == max(row["probabilities"], key=row["probabilities"].get)
    assert "classes found in the training data" in outcome.out and "4 classes, one label a text: 0 bird" in outcome.out
    assert "precision  recall      f1  samples" in outcome.err


def test_several_labels_a_text_are_learnt_and_predicted(lab, task, tmp_path):
    folder = tmp_path / "data"
    tiny.write_lines(folder / "train.json", labelled_rows(24, 1, several=True))
    tiny.write_lines(folder / "dev.json", labelled_rows(8, 2, several=True))
    settings = {**task, "dataset_name_or_path": str(folder), "do_predict": True, "max_steps": 2, **FULL}
    lab.train(tmp_path / "out", **settings)
    rows = read_predictions(tmp_path / "out")
    assert all(isinstance(row["output"], list) and set(row["probabilities"]) == {"bird", "cat", "dog"} for row in rows)
    for row in rows:
        assert row["output"] == [name for name, chance in row["probabilities"].items() if chance > 0.5]
    config = read_json(tmp_path / "out" / "config.json")
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "bird", "1": "cat", "2": "dog"}


def test_a_run_with_other_classes_does_not_go_on_from_a_checkpoint(lab, task, tmp_path):
    folder = tmp_path / "data"
    tiny.write_lines(folder / "train.json", labelled_rows(12, 1))
    settings = {**task, "dataset_name_or_path": str(folder), "evaluation_strategy": None, "eval_steps": None}
    lab.train(tmp_path / "out", **settings)
    text = (folder / "train.json").read_text(encoding="utf-8").replace('"none"', '"nothing"')
    (folder / "train.json").write_text(text, encoding="utf-8")
    (tmp_path / "out" / "adapter.json").unlink()
    here(TRAIN, lab.write(tmp_path / "out", **settings)).refused("belongs to another run", "classes was")


def test_unknown_labels_of_the_dev_data_are_named_before_anything_is_trained(lab, task, tmp_path):
    folder = tmp_path / "data"
    tiny.write_lines(folder / "train.json", labelled_rows(12, 1))
    tiny.write_lines(folder / "dev.json", [{"text": "the cow", "label": "cow"}, {"text": "a cat", "label": "cat"}])
    command = lab.write(tmp_path / "out", **{**task, "dataset_name_or_path": str(folder)})
    here(TRAIN, command).refused("dev.json line 1: label 'cow' is none of the training data's classes")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize(
    "changes, phrases",
    [
        (dict(length_policy="split"), ["length_policy split does not go with stage classification"]),
        (dict(lazy=True), ["lazy is true and stage is classification"]),
        (
            dict(metric_for_best_model="perplexity", load_best_model_at_end=True),
            ["metric_for_best_model perplexity is for text"],
        ),
        (dict(do_train=None, do_eval=True, max_steps=None, save_steps=None), ["has no classification head"]),
    ],
)
def test_keys_that_don_t_go_with_the_stage_are_refused(lab, task, tmp_path, changes, phrases):
    here(TRAIN, lab.write(tmp_path / "out", **{**task, **changes})).refused(*phrases)


def test_f1_is_refused_in_stages_that_have_none(lab, tmp_path):
    changes = dict(metric_for_best_model="f1", evaluation_strategy="steps", load_best_model_at_end=True)
    here(TRAIN, lab.write(tmp_path / "out", **changes)).refused("metric_for_best_model f1 needs stage classification")


def test_a_classifier_is_refused_by_commands_that_want_text(lab, task, tmp_path):
    settings = {**task, "max_steps": 1, "evaluation_strategy": None, "eval_steps": None}
    lab.train(tmp_path / "full", **settings, **FULL)
    lab.train(tmp_path / "adapter", **settings)
    said = "is a sequence classifier, which writes no text; set stage to classification"
    here(GENERATE, "--model_name_or_path", tmp_path / "full", "--prompt", "a", "--device", "cpu").refused(said)
    here(
        GENERATE,
        "--model_name_or_path",
        lab.model,
        "--lora_path",
        tmp_path / "adapter",
        "--prompt",
        "a",
        "--device",
        "cpu",
    ).refused("is a classifier's (bird, cat, dog, none)")
    here(TRAIN, lab.write(tmp_path / "sft", model_name_or_path=str(tmp_path / "full"))).refused(said)


def test_the_config_tells_transformers_the_pad_token_of_the_tokenizer(lab, task, tmp_path, model_folder):
    settings = {**task, "max_steps": 1, "evaluation_strategy": None, "eval_steps": None, **FULL}
    said = lab.train(tmp_path / "out", **settings, model_name_or_path=str(model_folder(pad_token_id=None)))
    assert read_json(tmp_path / "out" / "config.json")["pad_token_id"] == 3
    assert "transformers takes the last token before it" in said.out
