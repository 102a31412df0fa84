from __future__ import annotations

from types import SimpleNamespace

import pytest

from paddle_sft.train.callbacks import EarlyStopping, ProgressBar, describe, evaluations_without_gain

NAN = float("nan")


@pytest.mark.parametrize(
    "values, threshold, without",
    [
        ([], 0.0, 0),
        ([1.0], 0.0, 0),
        ([1.0, 2.0, 3.0], 0.0, 0),
        ([3.0, 2.0, 1.0], 0.0, 2),
        ([1.0, 1.0], 0.0, 1),  # no gain is no gain
        ([1.0, 1.05, 1.09], 0.1, 2),  # small steps don't add up: the best stays where it was
        ([1.0, 1.05, 1.12], 0.1, 0),  # and what is gained is counted from there
        ([1.0, 3.0, 2.0, 2.5], 0.0, 2),  # better than the last is not better than the best
        ([1.0, NAN, NAN], 0.0, 2),
        ([-5.0, -4.0], 0.0, 0),
    ],
)
def test_evaluations_without_a_gain_are_counted_against_the_best(values, threshold, without):
    assert evaluations_without_gain(values, threshold) == without


def stop_after(history, patience, threshold=0.0, greater=False, metric="eval_loss"):
    """How many evaluations happen before the run is stopped (None: it isn't)."""
    progress = SimpleNamespace(log_history=[])
    callback = EarlyStopping(SimpleNamespace(progress=progress), patience, threshold, metric, greater)
    control = SimpleNamespace(should_training_stop=False)
    for number, value in enumerate(history, start=1):
        progress.log_history += [{"loss": 1.0}, {metric: value}]
        callback.on_evaluate(None, None, control)
        if control.should_training_stop:
            return number
    return None


def test_a_loss_that_stops_falling_stops_the_run_after_its_patience():
    assert stop_after([3.0, 2.0, 2.1, 2.2, 1.0], patience=2) == 4
    assert stop_after([3.0, 2.0, 2.1, 1.9, 2.2, 1.8], patience=2) is None
    assert stop_after([3.0, 2.0, 2.1], patience=1) == 3


def test_an_accuracy_is_better_when_it_is_greater():
    assert stop_after([0.1, 0.2, 0.3], patience=1, greater=True, metric="eval_accuracy") is None
    assert stop_after([0.3, 0.2], patience=1, greater=True, metric="eval_accuracy") == 2


def test_a_resumed_run_counts_what_it_evaluated_before():
    progress = SimpleNamespace(log_history=[{"eval_loss": 1.0}, {"eval_loss": 1.1}, {"eval_loss": 1.2}])
    control = SimpleNamespace(should_training_stop=False)
    EarlyStopping(SimpleNamespace(progress=progress), 2, 0.0, "eval_loss", False).on_evaluate(None, None, control)
    assert control.should_training_stop


def test_a_log_entry_is_one_line_that_begins_with_the_step():
    assert describe({"loss": 1.23456, "step": 7, "eval_samples": 3}) == "step 7  loss 1.235  eval_samples 3"


def test_the_bar_goes_on_where_a_resumed_run_does(capsys):
    bar = ProgressBar(disable=False)
    bar.on_train_begin(None, SimpleNamespace(max_steps=10, global_step=6), None)
    for _ in range(4):
        bar.on_step_end(None, None, None)
    bar.on_log(None, None, None, {"step": 10, "loss": 0.5})
    bar.on_train_end(None, None, None)
    shown = capsys.readouterr()
    assert "10/10" in shown.err and "step 10  loss 0.5" in shown.out + shown.err


def test_a_bar_that_is_switched_off_still_lets_the_log_lines_out(capsys):
    bar = ProgressBar(disable=True)
    bar.on_train_begin(None, SimpleNamespace(max_steps=2, global_step=0), None)
    bar.on_step_end(None, None, None)
    bar.on_log(None, None, None, {"step": 1, "loss": 0.5})
    bar.on_train_end(None, None, None)
    shown = capsys.readouterr()
    assert "training" not in shown.err and "step 1  loss 0.5" in shown.out + shown.err
