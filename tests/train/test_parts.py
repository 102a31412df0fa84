"""The smaller parts of a run: evaluation, sums over ranks, NEFTune's noise, the picture, PaddleNLP's arguments."""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.data.collate import collate
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.train import gradients
from paddle_sft.train.evaluate import evaluate_sets
from paddle_sft.train.loss_plot import plot_loss
from paddle_sft.train.noise import add_embedding_noise, let_gradients_reach_the_first_layer
from paddle_sft.train.team import Team
from paddle_sft.train.upstream import training_arguments
from tests import tiny


def one_by_one(model, samples):
    """(loss, accuracy, tokens), a sample at a time, without padding."""
    found = [tiny.slow_loss(model, sample) for sample in samples]
    tokens = sum(sample.num_trained for sample in samples)
    return sum(loss for loss, _ in found) / tokens, sum(hits for _, hits in found) / tokens, tokens


def measure(model, sets, rows=3):
    stage = STAGES["sft"]

    def forward(batch):
        return stage.outputs(model, batch), batch

    return evaluate_sets(forward, sets, rows, 3, lambda: stage.meter(model), Team())


def test_each_dev_set_is_measured_by_itself_and_all_together_by_tokens(model_folder):
    model = tiny.load(model_folder())
    law, chat = tiny.make_samples(7, 1, longest=20), tiny.make_samples(2, 2, longest=6)
    found = measure(model, {"law": law, "chat": chat})
    for name, samples in (("eval_law", law), ("eval_chat", chat), ("eval", law + chat)):
        loss, accuracy, tokens = one_by_one(model, samples)
        assert found[f"{name}_loss"] == pytest.approx(loss, rel=1e-6)
        assert found[f"{name}_accuracy"] == accuracy
        assert (found[f"{name}_tokens"], found[f"{name}_samples"]) == (tokens, len(samples))
    assert "eval__loss" not in measure(model, {"": law})


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_metrics_are_over_all_trained_tokens_however_rows_are_batched(model_folder, rows):
    model, samples = tiny.load(model_folder()), tiny.make_samples(10)
    found = measure(model, {"": samples}, rows)
    loss, accuracy, tokens = one_by_one(model, samples)
    assert found["eval_loss"] == pytest.approx(loss, rel=1e-6)
    assert found["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found["eval_accuracy"] == accuracy
    assert (found["eval_tokens"], found["eval_samples"]) == (tokens, 10)


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma"])
def test_the_id_that_fills_rows_never_matters(model_folder, family):
    model, samples = tiny.load(model_folder(family)), tiny.make_samples(4)
    losses = []
    for fill in (0, 2, 50):
        batch = collate(samples, fill)
        losses.append(float(STAGES["sft"].loss(model, batch)))
    assert losses[0] == losses[1] == losses[2]


def test_gradients_are_summed_over_ranks_in_buckets_and_a_rank_without_samples_adds_zeros(monkeypatch):
    sent = []

    def three_ranks_alike(tensor, group=None):
        sent.append(tensor.shape[0])
        tensor.set_value(3.0 * tensor)

    monkeypatch.setattr(paddle.distributed, "all_reduce", three_ranks_alike)
    monkeypatch.setattr(gradients, "_BUCKET", 10)
    parameters = [paddle.create_parameter(shape, "float32") for shape in ([2, 3], [4], [5, 4], [3])]
    (sum(((number + 1.0) * p).sum() for number, p in enumerate(parameters[:3]))).backward()
    gradients.sum_over_ranks(parameters)
    assert sent == [10, 20, 3]
    for number, parameter in enumerate(parameters[:3]):
        np.testing.assert_array_equal(parameter.grad.numpy(), np.full(parameter.shape, 3.0 * (number + 1)))
    np.testing.assert_array_equal(parameters[3].grad.numpy(), np.zeros(3))


def embeddings(model, ids):
    return model.get_input_embeddings()(paddle.to_tensor(ids)).numpy()


def test_noise_is_within_its_bound_and_fills_it_in_training_only(model_folder, some_ids):
    model = tiny.load(model_folder())
    clean, logits = embeddings(model, some_ids), tiny.logits(model, some_ids)
    add_embedding_noise(model, alpha=5.0)
    np.testing.assert_array_equal(tiny.logits(model, some_ids), logits)
    model.train()
    paddle.seed(0)
    noise = embeddings(model, some_ids) - clean
    bound = 5.0 / math.sqrt(9 * 32)  # 9 tokens a row, 32 wide
    assert 0.99 * bound < np.abs(noise).max() <= bound * (1 + 1e-5)
    assert abs(noise.mean()) < 0.05 * bound
    assert noise.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # uniform
    assert (noise != embeddings(model, some_ids) - clean).any()  # new noise in every pass
    model.eval()
    np.testing.assert_array_equal(embeddings(model, some_ids), clean)


def test_a_frozen_embedding_lets_gradients_through_when_asked(model_folder, some_ids):
    model = tiny.load(model_folder())
    model.train()
    assert model.get_input_embeddings()(paddle.to_tensor(some_ids)).stop_gradient
    let_gradients_reach_the_first_layer(model)
    assert not model.get_input_embeddings()(paddle.to_tensor(some_ids)).stop_gradient
    assert model.get_input_embeddings().weight.stop_gradient  # the embedding itself stays frozen


def test_the_loss_curve_is_a_picture_of_what_was_logged(tmp_path):
    history = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.1}, {"step": 2, "loss": 1.5}, {"train_loss": 1.0}]
    plot_loss(tmp_path / "loss.png", history, "a run")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    plot_loss(tmp_path / "empty.png", [], "a run")
    assert (tmp_path / "empty.png").read_bytes() != (tmp_path / "loss.png").read_bytes()


@pytest.fixture
def upstream(tmp_path):
    """PaddleNLP's TrainingArguments from an argument file."""

    def make(half_precision="", **keys):
        given = dict(
            model_name_or_path="m",
            dataset_name_or_path="d",
            output_dir=str(tmp_path / "run"),
            do_train=True,
            device="cpu",
        )
        (tmp_path / "a.json").write_text(json.dumps({**given, **keys}))
        return training_arguments(load_finetune_arguments([str(tmp_path / "a.json")]), half_precision)

    return make


def test_what_the_user_wrote_reaches_paddlenlp_unchanged(upstream):
    given = dict(
        learning_rate=3e-4,
        max_grad_norm=0.5,
        warmup_steps=7,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        weight_decay=0.1,
        save_steps=11,
        logging_steps=3,
        max_steps=20,
        seed=5,
        dataloader_drop_last=True,
    )
    args = upstream(**given)
    for key, value in given.items():
        found = getattr(args, key)
        assert getattr(found, "value", found) == value, key


def test_nothing_is_evaluated_that_was_not_asked_for(upstream):
    """With do_eval alone PaddleNLP evaluates every logging_steps."""
    args = upstream(do_eval=True, logging_steps=1)
    assert getattr(args.evaluation_strategy, "value", args.evaluation_strategy) == "no" and not args.do_eval


def test_no_logger_is_used_that_was_not_asked_for(upstream):
    assert upstream().report_to == []
    assert upstream(report_to=["none"]).report_to == []
    assert upstream(report_to=["visualdl"]).report_to == ["visualdl"]


def test_half_precision_is_what_the_device_allows_not_what_was_written(upstream):
    assert not upstream("", bf16=True).bf16
