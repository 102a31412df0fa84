from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.core.atomic import damage
from paddle_sft.core.errors import CheckpointError, PaddleSFTError
from paddle_sft.train.checkpoint import list_checkpoints
from paddle_sft.train.weights import AdapterWeights, FullWeights
from tests import tiny

TRAIN, DEV = tiny.make_samples(10, seed=1), tiny.make_samples(4, seed=2)


@pytest.fixture
def trainer(model_folder, tmp_path):
    """A trainer over a tiny llama; `method` lora attaches one with dropout."""

    def make(name="run", lora=False, **keys):
        folder = model_folder()
        model = tiny.load(folder, trainable=not lora)
        weights = FullWeights(model, folder)
        if lora:
            paddle.seed(0)
            config = attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0, lora_dropout=0.2), None)
            tiny.train_deltas(model)
            weights = AdapterWeights(model, "lora", config, folder)
        keys = {"max_steps": 6, "per_device_train_batch_size": 3, **keys}
        return tiny.make_trainer(model, tmp_path / name, TRAIN, DEV, weights, **keys)

    return make


def entries(trainer, key):
    return [(entry["step"], entry[key]) for entry in trainer.progress.log_history if key in entry]


SAVING = dict(save_strategy="steps", save_steps=3)


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_restored_run_goes_on_bit_for_bit(trainer, optim, lora):
    keys = dict(
        optim=optim,
        lora=lora,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        logging_strategy="steps",
        logging_steps=2,
        weight_decay=0.01,
        gradient_accumulation_steps=2,
        **SAVING,
    )
    whole = trainer("whole", **keys)
    whole.train()
    again = trainer("again", **keys)
    summary = again.train(Path(whole.args.output_dir) / "checkpoint-3")
    before, after = tiny.snapshot(whole.model), tiny.snapshot(again.model)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)
    for key in ("loss", "learning_rate"):
        assert entries(again, key) == entries(whole, key) and len(entries(whole, key)) == 3
    assert summary["train_steps"] == 6 and summary["train_loss"] == whole._summary()["train_loss"]
    one, other = (Path(t.args.output_dir) / "checkpoint-6" for t in (whole, again))
    for file in ("optimizer.safetensors", "run_state.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes()


def test_a_checkpoint_is_whole_and_says_where_the_run_was(trainer):
    run = trainer(**SAVING)
    run.train()
    folders = list_checkpoints(run.args.output_dir)
    assert [folder.name for folder in folders] == ["checkpoint-3", "checkpoint-6"]
    for folder in folders:
        assert damage(folder) == []
        assert (folder / "tokenizer.model").is_file() and (folder / "config.json").is_file()
        step = int(folder.name.split("-")[1])
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == step
        assert json.loads((folder / "run_state.json").read_text())["schedule"]["last_epoch"] == step


def test_a_checkpoint_of_the_other_kind_of_run_is_refused(trainer):
    full, lora = trainer("full", **SAVING), trainer("lora", lora=True, **SAVING)
    full.train()
    lora.train()
    with pytest.raises(CheckpointError, match="trained was 'every weight', now 'lora'"):
        trainer("a", lora=True).train(Path(full.args.output_dir) / "checkpoint-3")
    with pytest.raises(PaddleSFTError):
        trainer("b").train(Path(lora.args.output_dir) / "checkpoint-3")


def test_checkpoints_beyond_the_limit_go_and_the_best_stays(trainer):
    run = trainer(
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        evaluation_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
    )
    run.train()
    worst = max(entries(run, "eval_loss"), key=lambda entry: entry[1])[0]
    assert worst < 6 and run.progress.best_checkpoint == f"checkpoint-{worst}"
    assert {folder.name for folder in list_checkpoints(run.args.output_dir)} == {f"checkpoint-{worst}", "checkpoint-6"}


def test_the_best_weights_are_there_at_the_end(trainer):
    run = trainer(
        save_strategy="steps",
        save_steps=2,
        evaluation_strategy="steps",
        eval_steps=2,
        learning_rate=0.05,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        max_steps=8,
    )
    run.train()
    best_step, best = min(entries(run, "eval_loss"), key=lambda entry: entry[1])
    assert run.progress.best_metric == best and run.progress.best_checkpoint == f"checkpoint-{best_step}"
    assert best_step < 8  # else the last weights would do
    assert run.evaluate()["eval_loss"] == best


def test_a_metric_that_evaluation_does_not_give_is_named(trainer):
    run = trainer(**{**SAVING, "evaluation_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True})
    run.args.metric_for_best_model = "bleu"
    with pytest.raises(PaddleSFTError, match="metric_for_best_model is 'eval_bleu'; evaluation gives eval_loss"):
        run.train()


def test_early_stopping_stops_the_run(trainer):
    run = trainer(
        evaluation_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        early_stopping=True,
        early_stopping_patience=2,
        early_stopping_threshold=100.0,
        max_steps=6,
    )
    assert run.train()["train_steps"] == 3  # nothing gains 100 nats: one evaluation sets the mark, two bring no gain


def test_evaluating_at_the_start_stops_nothing_and_is_logged_at_step_0(trainer):
    run = trainer(evaluation_strategy="steps", eval_steps=3, eval_at_start=True)
    assert run.train()["train_steps"] == 6
    assert [step for step, _ in entries(run, "eval_loss")] == [0, 3, 6]


def test_evaluating_changes_nothing_of_the_training(trainer):
    plain = trainer("plain", lora=True)
    watched = trainer("watched", lora=True, evaluation_strategy="steps", eval_steps=1)
    plain.train()
    watched.train()
    for name, array in tiny.snapshot(plain.model).items():
        np.testing.assert_array_equal(tiny.snapshot(watched.model)[name], array)


def test_evaluation_has_no_dropout(trainer):
    run = trainer(lora=True)
    run.model.train()
    found = run.evaluate()["eval_loss"]
    total = sum(tiny.slow_loss(run.model, sample)[0] for sample in DEV)
    assert found == pytest.approx(total / sum(sample.num_trained for sample in DEV), rel=1e-5)


def test_the_last_evaluation_is_reused_only_if_the_weights_are_the_same(trainer):
    run = trainer(evaluation_strategy="steps", eval_steps=4)
    run.train()
    assert run.last_evaluation() == {}  # that was step 4 of 6
    run.evaluate()
    assert run.last_evaluation()["eval_loss"] == entries(run, "eval_loss")[-1][1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_step_although_its_loss_is(trainer, value):
    run = trainer(shuffle=False, max_steps=3)
    first = next(iter(run.model.parameters()))
    before = tiny.snapshot(run.model)
    first.register_hook(lambda gradient: gradient * value)
    words = "gradient of step 1 has norm (nan|inf), its loss is [0-9.]+; the step was not applied"
    with pytest.raises(PaddleSFTError, match=words):
        run.train()
    for name, array in tiny.snapshot(run.model).items():
        np.testing.assert_array_equal(array, before[name], name)


def test_an_interval_is_logged_as_the_mean_over_its_trained_tokens(trainer):
    run = trainer(learning_rate=0.0, logging_strategy="steps", logging_steps=2, shuffle=False, max_steps=4)
    run.train()
    per_sample = [tiny.slow_loss(run.model, sample)[0] for sample in TRAIN]
    tokens = [sample.num_trained for sample in TRAIN]
    (_, first), (_, second) = entries(run, "loss")
    assert first == pytest.approx(sum(per_sample[:6]) / sum(tokens[:6]), rel=1e-6)
    assert second == pytest.approx(sum(per_sample[6:]) / sum(tokens[6:]), rel=1e-6)  # 3 samples and the last one


def test_the_summary_counts_every_token_once_per_epoch(trainer):
    run = trainer(max_steps=-1, num_train_epochs=2.0)
    summary = run.train()
    assert summary["train_tokens"] == 2 * sum(map(len, TRAIN)) and summary["train_epochs"] == 2.0
    assert summary["train_steps"] == 8  # 10 samples by 3: four steps an epoch
    assert run.progress.num_trained == 2 * sum(sample.num_trained for sample in TRAIN)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_the_learning_rate_follows_its_schedule(trainer, kind):
    run = trainer(lr_scheduler_type=kind, learning_rate=1e-3, logging_strategy="steps", logging_steps=1, max_steps=4)
    run.train()
    rates = [rate for _, rate in entries(run, "learning_rate")]
    expected = {
        "linear": [0.75e-3, 0.5e-3, 0.25e-3, 0.0],
        "cosine": [0.5e-3 * (1 + math.cos(math.pi * step / 4)) for step in (1, 2, 3, 4)],
        "constant": [1e-3] * 4,
    }[kind]  # of the step that comes next
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)
