"""What a run leaves behind is there, and true."""

from __future__ import annotations

import json

import pytest
import sentencepiece

from tests import tiny
from tests.e2e.commands import TRAIN, checkpoints, here, losses, read_json, without_times

EVALUATING = dict(evaluation_strategy="steps", eval_steps=2, save_steps=2)


def _tokens(lab):
    """Tokens and trained tokens of the training split, counted with sentencepiece alone: <s> src tgt </s>."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(lab.model / "tokenizer.model"))
    rows = [json.loads(line) for line in (lab.data / "train.json").read_text(encoding="utf-8").splitlines()]
    sources = sum(len(pieces.encode(row["src"])) for row in rows)
    targets = sum(len(pieces.encode(row["tgt"])) for row in rows)
    return sources + targets + 2 * len(rows), targets + len(rows)


def _line(outcome, name):
    found = [line for line in outcome.out.splitlines() if line.startswith(f"  {name} ")]
    assert len(found) == 1, f"{name}: {found}\n{outcome.out}"
    return " ".join(found[0].split())


# ---- the plan ----------------------------------------------------------------------------------------------------


def test_the_plan_counts_what_will_happen(lab, tmp_path):
    outcome = lab.train(
        tmp_path / "out", max_steps=None, num_train_epochs=2.5, per_device_train_batch_size=2, warmup_ratio=0.3,
        gradient_accumulation_steps=3, lora_rank=4, lora_target_modules=["q_proj", "down_proj"], save_strategy="no",
    )  # fmt: skip
    tokens, trained = _tokens(lab)
    sizes = dict(hidden=32, inner=48, layers=2, vocabulary=96, keys=16)
    attention = 2 * sizes["hidden"] ** 2 + 2 * sizes["hidden"] * sizes["keys"]
    layer = attention + 3 * sizes["hidden"] * sizes["inner"] + 2 * sizes["hidden"]
    base = 2 * sizes["vocabulary"] * sizes["hidden"] + sizes["layers"] * layer + sizes["hidden"]
    adapter = 4 * ((32 + 32) + (48 + 32)) * 2
    plan = read_json(tmp_path / "out" / "plan.json")
    expected = {
        "total_parameters": base + adapter,
        "trainable_parameters": adapter,
        "num_samples": 22,
        "num_tokens": tokens,
        "num_trained_tokens": trained,
        "num_steps": 10,  # 22 samples in steps of 6 are 4 an epoch; 2.5 epochs
        "steps_per_epoch": 4,
        "effective_batch": 6,
        "warmup_steps": 3,
    }
    assert {name: plan[name] for name in expected} == expected
    assert plan["derived"]["lora_alpha"] == [8.0, "2 * lora_rank 4"]
    assert f"{base + adapter:,}" in _line(outcome, "parameters")
    assert f"{adapter:,}" in _line(outcome, "trainable")
    assert f"{trained:,} trained" in _line(outcome, "samples")
    assert _line(outcome, "effective batch").startswith("effective batch 6 samples (2 rows x 3 accumulation x 1 ranks)")
    assert _line(outcome, "steps").startswith("steps 10 (4 an epoch, 2.50 epochs")
    assert "3 warm-up steps" in _line(outcome, "learning rate")
    assert _line(outcome, "lora_alpha") == "lora_alpha 8.0 (2 * lora_rank 4)"
    assert _line(outcome, "device") == "device cpu (asked for)"


def test_the_plan_is_shown_before_the_first_step(lab, tmp_path):
    outcome = lab.train(tmp_path / "out")
    assert outcome.out.index("effective batch") < outcome.out.index("step 1 ")


def test_the_run_does_what_the_plan_says(lab, tmp_path):
    lab.train(tmp_path / "out", max_steps=None, num_train_epochs=2, per_device_train_batch_size=3)
    results, plan = (read_json(tmp_path / "out" / name) for name in ("train_results.json", "plan.json"))
    assert results["train_steps"] == plan["num_steps"] == len(losses(tmp_path / "out")) == 16
    assert results["train_epochs"] == 2.0
    assert results["train_tokens"] == 2 * plan["num_tokens"]


# ---- files -------------------------------------------------------------------------------------------------------


def test_the_result_files_agree_with_each_other_and_with_the_log(lab, tmp_path):
    out = tmp_path / "out"
    outcome = lab.train(out, do_eval=True, eval_at_start=True, plot_loss=True, **EVALUATING)
    train, evaluated, everything = (read_json(out / f"{name}_results.json") for name in ("train", "eval", "all"))
    assert everything == {**train, **evaluated}
    history = read_json(out / "trainer_state.json")["log_history"]
    measured = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    assert [step for step, _ in measured] == [0, 2, 4]
    assert evaluated["eval_loss"] == measured[-1][1] < measured[0][1]
    rates = [entry["learning_rate"] for entry in history if "loss" in entry]
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0.0])
    assert f"eval_loss {measured[-1][1]:.4g}" in outcome.out
    weights = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    assert [step for step, _ in weights] == [1, 2, 3, 4]
    picture = (out / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert picture.endswith(b"IEND\xaeB`\x82")
    assert not list(out.rglob(".unfinished*"))


def test_arguments_json_is_the_run_and_gives_the_same_run_again(lab, tmp_path):
    lab.train(tmp_path / "out", seed=5, lora_dropout=0.2, weight_decay=0.01)
    used = read_json(tmp_path / "out" / "arguments.json")
    assert (used["seed"], used["lora_dropout"], used["weight_decay"], used["lora_alpha"]) == (5, 0.2, 0.01, 16.0)
    assert (used["max_steps"], used["optim"], used["lr_scheduler_type"]) == (4, "adamw", "linear")
    assert used["num_ranks"] == 1


def test_evaluating_alone_measures_what_training_measured(lab, tmp_path):
    lab.train(tmp_path / "out", do_eval=True)
    lab.train(tmp_path / "again", do_train=None, do_eval=True, lora_path=str(tmp_path / "out"), save_steps=None)
    one, again = (without_times(read_json(tmp_path / name / "eval_results.json")) for name in ("out", "again"))
    assert one == pytest.approx(again, rel=1e-6)
    assert not (tmp_path / "again" / "adapter.safetensors").exists()


def test_without_plot_loss_and_loggers_there_is_no_picture_and_no_log_folder(lab, tmp_path):
    lab.train(tmp_path / "out")
    assert not (tmp_path / "out" / "loss.png").exists()
    assert not (tmp_path / "out" / "runs").exists()


def test_visualdl_and_tensorboard_get_every_loss(lab, tmp_path):
    from visualdl import LogReader

    lab.train(tmp_path / "out", report_to=["visualdl", "tensorboard"], logging_dir=str(tmp_path / "logs"))
    written = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    events = [path for path in written if "tfevents" in path.name]
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()
    (record,) = [path for path in written if "vdlrecords" in path.name]
    logged = LogReader(file_path=str(record)).get_data("scalar", "train/loss")
    assert [round(item.value, 4) for item in logged] == [round(loss, 4) for loss in losses(tmp_path / "out")]


# ---- which checkpoint --------------------------------------------------------------------------------------------


def test_early_stopping_stops_when_nothing_improves(lab, tmp_path):
    changes = dict(max_steps=40, learning_rate=0.0, load_best_model_at_end=True, **EVALUATING)
    lab.train(tmp_path / "out", early_stopping=True, early_stopping_patience=3, **changes)
    assert read_json(tmp_path / "out" / "train_results.json")["train_steps"] == 8  # the first is the best, 3 more
    lab.train(tmp_path / "moving", early_stopping=True, **{**changes, "learning_rate": 0.003, "max_steps": 12})
    assert read_json(tmp_path / "moving" / "train_results.json")["train_steps"] == 12


@pytest.mark.parametrize("greater_is_better, best_of", [(None, min), (True, max)])
def test_the_best_checkpoint_is_the_result_and_is_measured(lab, tmp_path, greater_is_better, best_of):
    """The loss falls here, so that the largest is an early one: the result must not simply be the last."""
    out = tmp_path / "out"
    changes = dict(load_best_model_at_end=True, greater_is_better=greater_is_better, save_total_limit=2, **EVALUATING)
    lab.train(out, max_steps=12, **changes)
    history = read_json(out / "trainer_state.json")["log_history"]
    measured = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    best = best_of(measured, key=measured.get)
    assert (best < 10) == (best_of is max), measured
    assert checkpoints(out) == sorted({best, 10, 12})
    assert (out / "adapter.safetensors").read_bytes() == (
        out / f"checkpoint-{best}" / "adapter.safetensors"
    ).read_bytes()
    assert read_json(out / "eval_results.json")["eval_loss"] == pytest.approx(measured[best], rel=1e-6)


def test_only_the_newest_checkpoints_are_kept(lab, tmp_path):
    lab.train(tmp_path / "out", max_steps=9, save_steps=2, save_total_limit=2)
    assert checkpoints(tmp_path / "out") == [6, 8]


def test_an_epoch_strategy_logs_evaluates_and_saves_at_the_ends_of_epochs(lab, tmp_path):
    strategies = dict(evaluation_strategy="epoch", save_strategy="epoch", logging_strategy="epoch")
    changes = dict(max_steps=None, num_train_epochs=2, save_steps=None, logging_steps=None)
    lab.train(tmp_path / "out", **strategies, **changes)
    assert checkpoints(tmp_path / "out") == [6, 12]
    history = read_json(tmp_path / "out" / "trainer_state.json")["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [6, 12]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [6, 12]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_samples(lab, tmp_path, monkeypatch):
    from paddle_sft.stages.supervised import Supervised

    loss = Supervised.loss
    monkeypatch.setattr(Supervised, "loss", lambda self, model, batch: loss(self, model, batch) * float("nan"))
    here(TRAIN, lab.write(tmp_path / "out")).refused("the loss of step 1 is nan", "train.json line", "learning_rate")
    assert checkpoints(tmp_path / "out") == []


def test_the_tiny_data_can_be_learned(lab, tmp_path):
    """So that every comparison here is made on weights that moved."""
    lab.train(tmp_path / "out", max_steps=30, learning_rate=0.02, save_strategy="no")
    found = losses(tmp_path / "out")
    assert found[-1] < 0.7 * found[0]
    assert len(tiny.WORDS) > 10
