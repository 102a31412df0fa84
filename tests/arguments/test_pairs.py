"""Values that contradict each other are an error; values that follow from others are derived and say why."""

from __future__ import annotations

import pytest

EVAL = {"do_eval": True, "evaluation_strategy": "steps", "eval_steps": 100, "save_steps": 200}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fp16": True, "bf16": True}, "fp16 and bf16 are both true; keep one"),
        ({"fp16": True, "dtype": "bfloat16"}, "fp16 is true but dtype is bfloat16"),
        ({"bf16": True, "dtype": "float16"}, "bf16 is true but dtype is float16"),
        ({"device": "cpu", "dtype": "float16"}, "dtype float16 needs a GPU but device is cpu"),
        ({"src_length": 2048, "max_length": 2048}, "src_length 2048 leaves no token for a target"),
        ({"src_length": 4000}, "src_length 4000 leaves no token for a target, max_length is 2048"),
        ({"lora_rank": 16}, 'lora_rank is 16 but lora is off; add "lora": true'),
        ({"lora": False, "lora_path": "a"}, 'lora_path is "a" but lora is off'),
        ({"lora_alpha": 32}, "lora_alpha is 32.0 but lora is off"),
        ({"lora_dropout": 0.1}, "lora_dropout is 0.1 but lora is off"),
        ({"lora_target_modules": "all-linear"}, 'lora_target_modules is "all-linear" but lora is off'),
        ({"neftune_noise_alpha": 10.0}, 'neftune_noise_alpha is 10 but neftune is off; add "neftune": true'),
        ({"do_eval": False, "evaluation_strategy": "steps"}, "do_eval is false but evaluation_strategy is steps"),
        ({"eval_steps": 10}, "eval_steps is 10 but evaluation_strategy is no"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end needs evaluations to compare"),
        (
            {"load_best_model_at_end": True, "evaluation_strategy": "epoch"},
            "needs the same evaluation_strategy and save_strategy, got epoch and steps; set both to epoch",
        ),
        ({**EVAL, "save_steps": 150, "load_best_model_at_end": True}, "multiple of eval_steps, got 150 and 100"),
        ({**EVAL, "early_stopping": True}, 'early_stopping needs the best checkpoint; add "load_best_model_at_end"'),
        ({"early_stopping_patience": 3}, "early_stopping_patience is 3 but early_stopping is off"),
        ({"early_stopping_threshold": 0.1}, "early_stopping_threshold is 0.1 but early_stopping is off"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 10}, "warmup_steps is 10 but lr_scheduler_type constant"),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, "use constant_with_warmup"),
        ({"model_name_or_path": ...}, "model_name_or_path and config_name are both missing"),
        ({"model_name_or_path": None}, "model_name_or_path and config_name are both missing"),
        ({"config_name": "c"}, "model_name_or_path and config_name are both given"),
        ({"output_dir": ...}, "output_dir is missing"),
        ({"dataset_name_or_path": ...}, "dataset_name_or_path is missing"),
        ({"do_train": ...}, "nothing to do: do_train, do_eval and do_predict are off"),
        ({"stage": "sft", "autoregressive": True}, "autoregressive true is stage pretrain, but stage is sft"),
        ({"stage": "pt", "autoregressive": False}, "stage is pretrain but autoregressive is false"),
        ({"report_to": ["none", "wandb"]}, "report_to has none beside other loggers"),
        ({"overwrite_output_dir": True, "resume_from_checkpoint": True}, "overwrite_output_dir starts afresh"),
        ({"lora": True, "lora_target_modules": []}, "lora_target_modules names no layer"),
        ({"lora": True, "lora_target_modules": "q_proj,,v_proj"}, "lora_target_modules names no layer"),
        ({"lora": True, "lora_target_modules": ".*(q|v_proj"}, "is not a regular expression"),
    ],
)
def test_a_pair_that_can_not_work_is_one_clear_error(problems, changes, message):
    [line] = problems(changes)
    assert message in line


def test_early_stopping_without_evaluation_is_refused(problems):
    lines = problems({"early_stopping": True})
    assert any(line.startswith("early_stopping needs evaluations") for line in lines)


@pytest.mark.parametrize(
    "changes, name, value, why",
    [
        ({"lora": True, "lora_rank": 4}, "lora_alpha", 8.0, "2 * lora_rank 4"),
        ({"autoregressive": True}, "stage", "pretrain", "autoregressive is true"),
        ({"stage": "pretrain"}, "autoregressive", True, "stage is pretrain"),
        ({"evaluation_strategy": "epoch"}, "do_eval", True, "evaluation_strategy is epoch"),
        ({"evaluation_strategy": "steps", "logging_steps": 7}, "eval_steps", 7, "logging_steps is 7"),
        ({"max_length": 512}, "src_length", 256, "half of max_length 512, for its default does not fit"),
        ({"resume_from_checkpoint": False}, "resume_from_checkpoint", None, "false means that no checkpoint is named"),
        ({"report_to": "none"}, "report_to", [], "none is no logger beside the console"),
        (
            {"evaluation_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
            "metric_for_best_model",
            "loss",
            "load_best_model_at_end or early_stopping needs one",
        ),
    ],
)
def test_a_value_that_was_not_given_is_derived_and_says_why(load, changes, name, value, why):
    arguments = load(changes)
    owners = (arguments.model, arguments.data, arguments.adapter, arguments.train)
    [owner] = [owner for owner in owners if hasattr(owner, name)]
    assert getattr(owner, name) == value
    assert arguments.derived[name] == (value, why)


@pytest.mark.parametrize("metric, greater", [("loss", False), ("eval_loss", False), ("perplexity", False),
                                             ("accuracy", True), ("eval_accuracy", True)])  # fmt: skip
def test_only_more_accuracy_is_better(load, metric, greater):
    changes = {"evaluation_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    assert load({**changes, "metric_for_best_model": metric}).train.greater_is_better is greater


@pytest.mark.parametrize(
    "changes, name, why",
    [
        ({"warmup_steps": 10, "warmup_ratio": 0.1}, "warmup_ratio", "not used: warmup_steps 10 is above 0 and wins"),
        ({"max_steps": 10, "num_train_epochs": 2}, "num_train_epochs", "not used: max_steps 10 is above 0 and wins"),
        ({"evaluation_strategy": "epoch", "eval_steps": 5}, "eval_steps", "not used: evaluation_strategy is epoch"),
        ({"fp16_opt_level": "O2"}, "fp16_opt_level", "not used: bf16 and fp16 are off"),
        ({"power": 2.0}, "power", "not used: it belongs to polynomial, lr_scheduler_type is linear"),
        ({"num_cycles": 1.0}, "num_cycles", "not used: it belongs to cosine, lr_scheduler_type is linear"),
        ({"optim": "adafactor", "adam_beta1": 0.8}, "adam_beta1", "not used: it belongs to adamw, optim is adafactor"),
        ({"save_strategy": "epoch", "save_steps": 5}, "save_steps", "not used: save_strategy is epoch"),
        ({"metric_for_best_model": "accuracy"}, "metric_for_best_model",
         "not used: load_best_model_at_end and early_stopping are off"),
        ({"stage": "pretrain", "src_length": 5}, "src_length",
         "not used: stage pretrain has no prompts, and cuts text every max_length tokens"),
        (
            {"overwrite_cache": True, "data_cache_dir": "none"},
            "overwrite_cache",
            "holds anyway: data_cache_dir is none, so nothing is kept between runs",
        ),
    ],
)  # fmt: skip
def test_a_value_that_has_no_effect_stays_as_written_and_is_shown(load, changes, name, why):
    arguments = load(changes)
    owners = (arguments.data, arguments.train)
    [owner] = [owner for owner in owners if hasattr(owner, name)]
    assert getattr(owner, name) == changes[name]
    assert arguments.derived[name] == (changes[name], why)


@pytest.mark.parametrize(
    "given, read",
    [
        (None, None),
        ("all-linear", "all-linear"),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("q_proj,v_proj", ["q_proj", "v_proj"]),
        ("q_proj", ["q_proj"]),
        ('["q_proj"]', ["q_proj"]),
        (".*[qv]_proj", ".*[qv]_proj"),
        (r".*layers\.[0-9]{1,2}\.q_proj", r".*layers\.[0-9]{1,2}\.q_proj"),
        ("[a-z]+_proj", "[a-z]+_proj"),
    ],
)
def test_lora_targets_are_a_list_or_a_regular_expression(load, given, read):
    assert load({"lora": True, "lora_target_modules": given}).adapter.lora_target_modules == read


def test_default_arguments_contradict_nothing_and_derive_nothing(load):
    assert load().derived == {}


def test_a_given_lora_alpha_is_kept(load):
    arguments = load({"lora": True, "lora_alpha": 32})
    assert arguments.adapter.lora_alpha == 32.0 and "lora_alpha" not in arguments.derived


def test_default_values_of_lora_may_be_written_while_it_is_off(load):
    load({"lora": False, "lora_rank": 8, "lora_path": None, "lora_dropout": 0.0})
