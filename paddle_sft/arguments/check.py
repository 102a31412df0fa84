"""What follows from the values together: contradictions, keys that need another key, and derived values."""

from __future__ import annotations

from typing import Callable, Iterator, List, Tuple

from paddle_sft.arguments.check_adapter import check_adapter, derive_adapter
from paddle_sft.arguments.check_classes import check_classification, derive_classification
from paddle_sft.arguments.check_data import (
    check_held_out,
    check_lazy,
    check_mixing,
    check_pose,
    check_template,
    derive_template,
)
from paddle_sft.arguments.check_parallel import check_parallel
from paddle_sft.arguments.check_quant import check_quant
from paddle_sft.arguments.check_step import (
    check_attention,
    check_long_context,
    check_nonfinite,
    check_recompute,
    derive_step,
)
from paddle_sft.arguments.check_weights import check_linear_methods, check_weights
from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.hub import HUB_KEYS, hub_problem
from paddle_sft.arguments.upstream_policy import KEPT_ANYWAY
from paddle_sft.arguments.values import show


def settle(draft: Draft) -> List[Problem]:
    """Derive what follows from the given values and return what contradicts."""
    for derive in DERIVATIONS:
        derive(draft)
    return [problem for rule in RULES for problem in rule(draft)]


def _derive_stage(draft: Draft) -> None:
    if draft["autoregressive"] and "stage" not in draft.given:
        draft.derive("stage", "pretrain", "autoregressive is true")
    elif draft["stage"] == "pretrain" and "autoregressive" not in draft.given:
        draft.derive("autoregressive", True, "stage is pretrain")


def _derive_lengths(draft: Draft) -> None:
    if draft["stage"] == "pretrain":
        for name in ("src_length", "length_policy"):
            if name in draft.given:
                draft.note(name, "not used: stage pretrain has no prompts, and cuts text every max_length tokens")
    elif draft["stage"] == "classification":
        return
    elif "src_length" not in draft.given and draft["max_length"] <= draft["src_length"] and draft["max_length"] > 1:
        half = draft["max_length"] // 2
        draft.derive("src_length", half, f"half of max_length {draft['max_length']}, for its default does not fit")


def _derive_packing(draft: Draft) -> None:
    packing = draft["packing"]
    if packing is True:
        draft.derive("packing", "best_fit", "packing true means best_fit")
    elif packing is False or (packing is None and not (draft["zero_padding"] or draft["greedy_zero_padding"])):
        draft.values["packing"] = "none"
    elif packing is None and draft["greedy_zero_padding"]:
        draft.derive("packing", "greedy", "greedy_zero_padding is true")
    elif packing is None:
        draft.derive("packing", "best_fit", "zero_padding is true")


def _derive_evaluation(draft: Draft) -> None:
    strategy = draft["evaluation_strategy"]
    if strategy != "no" and "do_eval" not in draft.given:
        draft.derive("do_eval", True, f"evaluation_strategy is {strategy}")
    if strategy == "steps" and draft["eval_steps"] is None:
        draft.derive("eval_steps", draft["logging_steps"], f"logging_steps is {draft['logging_steps']}")
    if strategy == "epoch" and draft.has("eval_steps"):
        draft.note("eval_steps", "not used: evaluation_strategy is epoch")
    if draft["load_best_model_at_end"] or draft["early_stopping"]:
        if draft["metric_for_best_model"] is None:
            draft.derive("metric_for_best_model", "loss", "load_best_model_at_end or early_stopping needs one")
        if draft["greater_is_better"] is None:
            metric = draft["metric_for_best_model"]
            draft.derive("greater_is_better", metric.endswith(("accuracy", "f1")), f"metric_for_best_model is {metric}")
    else:
        for name in ("metric_for_best_model", "greater_is_better"):
            if draft.has(name):
                draft.note(name, "not used: load_best_model_at_end and early_stopping are off")


def _derive_schedule(draft: Draft) -> None:
    if draft["warmup_steps"] > 0 and draft["warmup_ratio"] > 0:
        draft.note("warmup_ratio", f"not used: warmup_steps {draft['warmup_steps']} is above 0 and wins")
    if draft["max_steps"] > 0 and "num_train_epochs" in draft.given:
        draft.note("num_train_epochs", f"not used: max_steps {draft['max_steps']} is above 0 and wins")
    scheduler = draft["lr_scheduler_type"]
    for name, owner in (("num_cycles", "cosine"), ("lr_end", "polynomial"), ("power", "polynomial")):
        if name in draft.given and scheduler != owner:
            draft.note(name, f"not used: it belongs to {owner}, lr_scheduler_type is {scheduler}")
    if draft["optim"] != "adamw":
        for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
            if name in draft.given:
                draft.note(name, f"not used: it belongs to adamw, optim is {draft['optim']}")


def _derive_rest(draft: Draft) -> None:
    if draft["resume_from_checkpoint"] is False:
        draft.derive("resume_from_checkpoint", None, "false means that no checkpoint is named")
    if "none" in draft["report_to"] and len(draft["report_to"]) == 1:
        draft.derive("report_to", [], "none is no logger beside the console")
    if "fp16_opt_level" in draft.given and not draft["bf16"] and not draft["fp16"]:
        draft.note("fp16_opt_level", "not used: bf16 and fp16 are off")
    for name, strategy in (("save_steps", "save_strategy"), ("logging_steps", "logging_strategy")):
        if name in draft.given and draft[strategy] != "steps":
            draft.note(name, f"not used: {strategy} is {draft[strategy]}")
    if draft["overwrite_cache"] and draft["data_cache_dir"] == "none":
        draft.note("overwrite_cache", "holds anyway: data_cache_dir is none, so nothing is kept between runs")
    for name, why in KEPT_ANYWAY.items():
        if name in draft.given:
            draft.note(name, f"holds anyway: {why}")


def _check_needed(draft: Draft) -> Iterator[Problem]:
    if not draft["output_dir"]:
        yield ("output_dir",), 'output_dir is missing; add "output_dir": "./checkpoints/..."'
    if not (draft["do_train"] or draft["do_eval"] or draft["do_predict"]):
        names = ("do_train", "do_eval", "do_predict")
        yield names, 'nothing to do: do_train, do_eval and do_predict are off; add "do_train": true'
    elif not any(draft[name] for name in ("dataset_name_or_path", "dataset", "eval_dataset")) or (
        draft["do_train"] and not draft["dataset_name_or_path"] and not draft["dataset"]
    ):
        yield (
            ("dataset_name_or_path", "dataset", "dataset_dir"),
            ('dataset_name_or_path is missing; add "dataset_name_or_path": "./data", a folder with train.json'),
        )
    names = ("model_name_or_path", "config_name")
    if not draft["model_name_or_path"] and not draft["config_name"]:
        yield (
            names,
            (
                "model_name_or_path and config_name are both missing; give model_name_or_path to continue a model, "
                "or config_name to train from scratch"
            ),
        )
    if draft["model_name_or_path"] and draft["config_name"]:
        yield (
            names,
            (
                "model_name_or_path and config_name are both given; model_name_or_path continues from a model, "
                "config_name alone trains from scratch; keep one"
            ),
        )


def _check_stage(draft: Draft) -> Iterator[Problem]:
    names = ("stage", "autoregressive")
    if draft["autoregressive"] and draft["stage"] != "pretrain":
        yield names, f"autoregressive true is stage pretrain, but stage is {draft['stage']}; leave one of them out"
    if draft["stage"] == "pretrain" and not draft["autoregressive"]:
        yield names, "stage is pretrain but autoregressive is false; leave autoregressive out"
    if draft["stage"] == "sft" and draft["src_length"] >= draft["max_length"]:
        yield (
            ("src_length", "max_length"),
            (
                f"src_length {draft['src_length']} leaves no token for a target, max_length is {draft['max_length']}; "
                "src_length must be smaller"
            ),
        )


PACKINGS = ("none", "sequential", "greedy", "best_fit")
"""The names in packing.packers.PACKERS, which needs numpy; a test compares them."""


def _check_packing(draft: Draft) -> Iterator[Problem]:
    packing = draft["packing"]
    if packing not in PACKINGS:
        yield ("packing",), f"packing is {show(packing)}; allowed: {', '.join(PACKINGS)}, true or false"
    if draft["greedy_zero_padding"] and not draft["zero_padding"]:
        names = ("greedy_zero_padding", "zero_padding")
        yield names, 'greedy_zero_padding needs zero_padding; add "zero_padding": true, or write "packing": "greedy"'
    for name, means in (("greedy_zero_padding", "greedy"), ("zero_padding", "best_fit")):
        if draft[name] and packing in PACKINGS and packing not in (means, "greedy"):
            yield (name, "packing"), f"{name} is true and packing is {packing}; keep one of them"
            return


def _check_neftune(draft: Draft) -> Iterator[Problem]:
    if not draft["neftune"] and draft["neftune_noise_alpha"] != 5.0:
        yield (
            ("neftune", "neftune_noise_alpha"),
            (
                f"neftune_noise_alpha is {draft['neftune_noise_alpha']:g} but neftune is off; "
                'add "neftune": true or leave neftune_noise_alpha out'
            ),
        )


def _check_new_tokens(draft: Draft) -> Iterator[Problem]:
    if draft["new_special_tokens"] and "resize_vocab" in draft.given and not draft["resize_vocab"]:
        yield (
            ("new_special_tokens", "resize_vocab"),
            "new_special_tokens need rows in the model, and resize_vocab is false; leave resize_vocab out",
        )


def _check_precision(draft: Draft) -> Iterator[Problem]:
    if draft["fp16"] and draft["bf16"]:
        yield ("fp16", "bf16"), "fp16 and bf16 are both true; keep one"
    for name, dtype in (("fp16", "bfloat16"), ("bf16", "float16")):
        if draft[name] and draft["dtype"] == dtype:
            yield (name, "dtype"), f"{name} is true but dtype is {dtype}; leave dtype out"
    if draft["device"] != "cpu":
        return
    if draft["dtype"] in ("bfloat16", "float16"):
        yield ("dtype", "device"), f"dtype {draft['dtype']} needs a GPU but device is cpu; set dtype to float32 or auto"


def _check_evaluation(draft: Draft) -> Iterator[Problem]:
    strategy = draft["evaluation_strategy"]
    if strategy != "no" and not draft["do_eval"]:
        yield (
            ("do_eval", "evaluation_strategy"),
            (
                f"do_eval is false but evaluation_strategy is {strategy}; "
                'set "do_eval": true or "evaluation_strategy": "no"'
            ),
        )
    if strategy == "no" and draft.has("eval_steps"):
        yield (
            ("eval_steps", "evaluation_strategy"),
            (
                f"eval_steps is {draft['eval_steps']} but evaluation_strategy is no; "
                'set "evaluation_strategy": "steps" or leave eval_steps out'
            ),
        )


def _check_best_model(draft: Draft) -> Iterator[Problem]:
    evaluation, save = draft["evaluation_strategy"], draft["save_strategy"]
    names = ("load_best_model_at_end", "evaluation_strategy", "save_strategy", "eval_steps", "save_steps")
    if draft["load_best_model_at_end"]:
        if evaluation == "no":
            yield (
                names[:2],
                (
                    "load_best_model_at_end needs evaluations to compare; "
                    'set "evaluation_strategy" to "steps" or "epoch", as save_strategy'
                ),
            )
        elif evaluation != save:
            yield (
                names[:3],
                (
                    f"load_best_model_at_end needs the same evaluation_strategy and save_strategy, "
                    f"got {evaluation} and {save}; set both to {evaluation}"
                ),
            )
        elif evaluation == "steps" and draft["save_steps"] % draft["eval_steps"]:
            yield (
                names,
                (
                    f"load_best_model_at_end needs save_steps to be a multiple of eval_steps, "
                    f"got {draft['save_steps']} and {draft['eval_steps']}"
                ),
            )


def _check_early_stopping(draft: Draft) -> Iterator[Problem]:
    if draft["early_stopping"]:
        if draft["evaluation_strategy"] == "no":
            yield (
                ("early_stopping", "evaluation_strategy"),
                ('early_stopping needs evaluations; set "evaluation_strategy" to "steps" or "epoch"'),
            )
        if not draft["load_best_model_at_end"]:
            yield (
                ("early_stopping", "load_best_model_at_end"),
                ('early_stopping needs the best checkpoint; add "load_best_model_at_end": true'),
            )
        return
    for name, default in (("early_stopping_patience", 1), ("early_stopping_threshold", 0.0)):
        if draft[name] != default:
            yield (
                (name, "early_stopping"),
                (f'{name} is {draft[name]:g} but early_stopping is off; add "early_stopping": true or leave it out'),
            )


def _check_schedule(draft: Draft) -> Iterator[Problem]:
    if draft["lr_scheduler_type"] != "constant":
        return
    for name in ("warmup_steps", "warmup_ratio"):
        if draft[name] > 0:
            yield (
                (name, "lr_scheduler_type"),
                (
                    f"{name} is {draft[name]:g} but lr_scheduler_type constant ignores warm-up; "
                    "use constant_with_warmup, or leave the warm-up out"
                ),
            )


def _check_rest(draft: Draft) -> Iterator[Problem]:
    if "none" in draft["report_to"]:
        yield ("report_to",), f"report_to has none beside other loggers: {', '.join(draft['report_to'])}; keep either"
    if draft["overwrite_output_dir"] and draft["resume_from_checkpoint"] is True:
        yield (
            ("overwrite_output_dir", "resume_from_checkpoint"),
            ("overwrite_output_dir starts afresh but resume_from_checkpoint true continues; keep one"),
        )


def _check_hub(draft: Draft) -> Iterator[Problem]:
    problem = hub_problem({name: draft[name] for name in HUB_KEYS})
    if problem:
        yield tuple(HUB_KEYS), problem


DERIVATIONS: Tuple[Callable[[Draft], None], ...] = (
    _derive_stage,
    derive_classification,
    _derive_lengths,
    _derive_packing,
    derive_template,
    derive_adapter,
    _derive_evaluation,
    _derive_schedule,
    derive_step,
    _derive_rest,
)
RULES: Tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    _check_needed,
    _check_hub,
    _check_stage,
    check_classification,
    _check_packing,
    check_mixing,
    check_held_out,
    check_lazy,
    check_pose,
    check_template,
    check_adapter,
    check_weights,
    check_linear_methods,
    _check_neftune,
    _check_new_tokens,
    _check_precision,
    _check_evaluation,
    _check_best_model,
    _check_early_stopping,
    _check_schedule,
    check_attention,
    check_long_context,
    check_recompute,
    check_nonfinite,
    check_quant,
    check_parallel,
    _check_rest,
)
