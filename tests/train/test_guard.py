"""A step whose loss or gradient is no number is never applied; it is named, and skipped or the run's end, as asked."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.core.log import get_logger
from paddle_sft.train.checkpoint import list_checkpoints
from paddle_sft.train.optimizer import optimizer_tensors
from tests import tiny

TRAIN = tiny.make_samples(12, seed=1)
NAN = float("nan")


def spoil(model, calls, value):
    """Multiply what the last layer gives by a number, in some of the forward passes (from 0)."""
    seen = []

    def hook(layer, inputs, output):
        seen.append(1)
        return output * value if len(seen) - 1 in calls else output

    model.llama.norm.register_forward_post_hook(hook)


@pytest.fixture
def trainer(model_folder, tmp_path):
    def make(name="run", bad=(), value=NAN, **keys):
        model = tiny.load(model_folder(), trainable=True)
        keys = {"max_steps": 4, "per_device_train_batch_size": 3, "shuffle": False, "logging_strategy": "steps",
                "logging_steps": 1, "weight_decay": 0.01, "warmup_steps": 1, **keys}  # fmt: skip
        spoil(model, bad, value)
        return tiny.make_trainer(model, tmp_path / name, TRAIN, **keys)

    return make


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    return caplog


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_skipped_step_is_one_that_never_was_but_for_the_schedule(trainer, warnings, value):
    """Weights and moments afterwards are those of a run in which step 2 has a gradient of its own: none at all."""
    run = trainer(nonfinite_step="skip", bad=[1], value=value)
    run.train()
    other = trainer("other")
    update = other._update

    def without_the_second():
        if other.progress.global_step != 1:
            return update()
        other.optimizer.clear_grad()
        other.lr_scheduler.step()

    other._update = without_the_second
    other.train()
    for name, array in tiny.snapshot(other.model).items():
        np.testing.assert_array_equal(tiny.snapshot(run.model)[name], array, name)
    one, two = (optimizer_tensors(made.optimizer, made.trainable) for made in (run, other))
    assert one.keys() == two.keys()
    for name, array in two.items():
        np.testing.assert_array_equal(one[name].numpy(), array.numpy(), name)
    assert run.optimizer.get_lr() == other.optimizer.get_lr()
    text = " ".join(warnings.text.split())
    assert "the loss of step 2 is" in text and "train.json line 4, train.json line 5, train.json line 6." in text


def test_skipped_steps_are_counted_and_leave_the_logged_loss_alone(trainer):
    run = trainer(nonfinite_step="skip", bad=[1, 3])
    summary = run.train()
    assert run.progress.skipped_steps == 2 and summary["skipped_steps"] == 2
    logged = run.progress.log_history
    assert [entry["step"] for entry in logged if "loss" in entry] == [1, 3]
    assert [entry.get("skipped_steps") for entry in logged] == [None, 1, 1, 2]
    tokens = sum(sample.num_trained for sample in [*TRAIN[:3], *TRAIN[6:9]])
    assert run.progress.num_trained == tokens and np.isfinite(summary["train_loss"])
    assert run.progress.num_input_tokens_seen == sum(map(len, TRAIN))


def test_the_micro_batch_that_is_to_blame_is_named_alone(trainer):
    run = trainer(bad=[4], gradient_accumulation_steps=3, per_device_train_batch_size=1)
    with pytest.raises(PaddleSFTError) as caught:
        run.train()
    assert "the loss of step 2 is nan; the step was not applied. Its samples: train.json line 5. Lower" in str(
        caught.value
    )


def test_a_gradient_that_is_no_number_is_skipped_too(trainer):
    run = trainer(nonfinite_step="skip")
    first, calls = next(iter(run.model.parameters())), []
    first.register_hook(lambda gradient: calls.append(1) or (gradient * NAN if len(calls) == 2 else gradient))
    run.train()
    assert run.progress.skipped_steps == 1 and len(calls) == 4
    assert all(np.isfinite(array).all() for array in tiny.snapshot(run.model).values())


def test_too_many_in_a_row_end_the_run_and_one_between_them_does_not(trainer):
    keys = dict(nonfinite_step="skip", max_nonfinite_steps=2, max_steps=8)
    run = trainer(bad=[0, 1, 3, 4], **keys)
    run.train()
    assert run.progress.skipped_steps == 4
    run = trainer("again", bad=[0, 2, 3, 4], **keys)
    with pytest.raises(PaddleSFTError, match="loss of step 5 .* 3 steps in a row .* max_nonfinite_steps is 2.*earlier"):
        run.train()


def test_a_resumed_run_remembers_what_was_skipped_in_a_row(trainer):
    keys = dict(nonfinite_step="skip", max_nonfinite_steps=2, save_strategy="steps", save_steps=2)
    run = trainer(bad=[0, 1], **{**keys, "max_steps": 4})
    run.train()
    again = trainer("again", bad=[0], **keys)  # its first call is step 3
    with pytest.raises(PaddleSFTError, match="loss of step 3 .* 3 steps in a row"):
        again.train(list_checkpoints(run.args.output_dir)[0])


def test_by_default_it_stops_and_weights_are_those_of_the_last_good_step(trainer):
    run, good = trainer(bad=[2]), trainer("good", max_steps=2, warmup_steps=1, lr_scheduler_type="constant_with_warmup")
    run.args.lr_scheduler_type = good.args.lr_scheduler_type
    with pytest.raises(PaddleSFTError, match="loss of step 3 is nan.*line 7, train.json line 8, train.json line 9"):
        run.train()
    good.train()
    for name, array in tiny.snapshot(good.model).items():
        np.testing.assert_array_equal(tiny.snapshot(run.model)[name], array, name)
    assert run.progress.global_step == 2
