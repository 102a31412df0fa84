"""What stage classification says about the other keys."""

from __future__ import annotations

from typing import Iterator

from paddle_sft.arguments.draft import Draft, Problem

_UNUSED = ("src_length", "template", "train_on_prompt", "mask_history")
_POLICIES = ("truncate_right", "truncate_left", "drop", "error")


def derive_classification(draft: Draft) -> None:
    """A text to classify has neither prompt nor answer."""
    if draft["stage"] != "classification":
        return
    for name in _UNUSED:
        if name in draft.given:
            draft.note(name, "not used: stage classification reads each text as it is")
    if "length_policy" not in draft.given:
        draft.derive("length_policy", "truncate_right", "stage is classification, and its texts have no prompt to cut")


def check_classification(draft: Draft) -> Iterator[Problem]:
    """Policies and metrics that go with a stage."""
    metric = draft["metric_for_best_model"] or "loss"
    if draft["stage"] != "classification":
        if metric.endswith("f1"):
            yield (
                ("metric_for_best_model", "stage"),
                f"metric_for_best_model {metric} needs stage classification, stage is {draft['stage']}; "
                "use loss, perplexity or accuracy",
            )
        return
    if metric.endswith("perplexity"):
        yield (
            ("metric_for_best_model", "stage"),
            f"metric_for_best_model {metric} is for text; stage classification has loss, accuracy and f1",
        )
    if draft["length_policy"] not in _POLICIES:
        yield (
            ("length_policy", "stage"),
            f"length_policy {draft['length_policy']} does not go with stage classification, where a text has one label "
            f"and no prompt; use {', '.join(_POLICIES[:-1])} or {_POLICIES[-1]}",
        )
    if draft["lazy"]:
        yield (
            ("lazy", "stage"),
            "lazy is true and stage is classification, whose classes are found by reading all samples before training; "
            "leave lazy out",
        )
