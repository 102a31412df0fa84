"""What the keys of the methods that change the model as a whole mean together."""

from __future__ import annotations

import re
from typing import Iterator

from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.values import show

_OF_LSTM = {"encoder_num_layers": 2, "encoder_dropout": 0.0}


def check_model_keys(draft: Draft, method: str) -> Iterator[Problem]:
    """Problems of the keys of one method."""
    if draft["lora_path"]:  # it brings its own numbers
        return
    if method == "prompt_tuning":
        yield from _check_prompt(draft)
    elif method == "p_tuning":
        yield from _check_p_tuning(draft)
    elif method == "prefix_tuning":
        yield from _check_prefix(draft)
    elif method == "reft":
        yield from _check_reft(draft)


def _check_prompt(draft: Draft) -> Iterator[Problem]:
    names, text = ("prompt_tuning_init", "prompt_tuning_init_text"), draft["prompt_tuning_init_text"]
    if draft["prompt_tuning_init"] == "text" and not text:
        yield names, "prompt_tuning_init is text and prompt_tuning_init_text is missing; write the text to start from"
    elif text and draft["prompt_tuning_init"] != "text":
        kind = draft["prompt_tuning_init"]
        yield (
            names,
            f"prompt_tuning_init_text is {show(text)} but prompt_tuning_init is {kind}; add "
            '"prompt_tuning_init": "text", or leave the text out',
        )


def _check_p_tuning(draft: Draft) -> Iterator[Problem]:
    if draft["encoder_reparameterization_type"] == "LSTM":
        return
    for name, usual in _OF_LSTM.items():
        if draft[name] != usual:
            yield (
                (name, "encoder_reparameterization_type"),
                f"{name} is {draft[name]} but the encoder is an MLP, which has none; add "
                f'"encoder_reparameterization_type": "LSTM", or leave {name} out',
            )


def _check_prefix(draft: Draft) -> Iterator[Problem]:
    if not draft["prefix_projection"] and draft["encoder_hidden_size"] is not None:
        yield (
            ("encoder_hidden_size", "prefix_projection"),
            f"encoder_hidden_size is {draft['encoder_hidden_size']} but prefix_projection is false, so there is no "
            "encoder; leave one of them out",
        )


def _check_reft(draft: Draft) -> Iterator[Problem]:
    if not re.fullmatch(r"[fl][1-9]\d*|f[1-9]\d*\+l[1-9]\d*", draft["position"]):
        allowed = "f7 (the first 7 tokens of the prompt), l7 (the last 7) and f7+l7 (both), with any numbers from 1"
        yield ("position",), f"position is {show(draft['position'])}; allowed are {allowed}"
    layers = draft["layers"]
    parts = re.split(r"\s*[;,]\s*", layers.strip(" []")) if isinstance(layers, str) else layers
    if layers != "all" and not (parts and all(re.fullmatch(r"\d+", str(part)) for part in parts)):
        yield ("layers",), f"layers is {show(layers)}; allowed are all, or numbers from 0 such as 4,8,12"
    if draft["stage"] == "pretrain":
        why = "adapter reft edits the prompts of samples, and stage pretrain has none; use lora, or stage sft"
        yield ("adapter", "stage"), why
