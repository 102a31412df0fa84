"""What the keys of mixing, stages, dev sets and lazy reading say together."""

from __future__ import annotations

from typing import Iterator

from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.mixing import SourceMix, names_of, read_mixing, read_stages


def check_mixing(draft: Draft) -> Iterator[Problem]:
    """Each of mixing, its two settings and data_stages by itself, and against the others."""
    names = names_of(draft["dataset"])
    stages, mixing = draft["data_stages"], draft["mixing"]
    for problem in read_mixing(mixing, names).problems:
        yield ("mixing", "dataset"), f"mixing {problem}"
    for problem in read_stages(stages, names).problems:
        yield ("data_stages", "dataset"), f"data_stages {problem}"
    if stages is not None and mixing is not None:
        names_of_both = ("mixing", "data_stages")
        yield names_of_both, "mixing and data_stages are both given; write mixing into the stages that mix"
    if stages is not None and "num_train_epochs" in draft.given:
        yield (
            ("num_train_epochs", "data_stages"),
            "num_train_epochs and data_stages are both given; a stage says its own length; leave num_train_epochs out",
        )
    if mixing is None and stages is None:
        for name in ("mixing_unit", "mixing_exhausted"):
            if name in draft.given:
                yield (name, "mixing"), f"{name} is {draft[name]} but nothing is mixed; add mixing, or leave {name} out"


def derive_template(draft: Draft) -> None:
    """PaddleNLP's chat_template: a file, or the model for the template that it brings."""
    given = draft["chat_template"]
    if given is not None and "template" not in draft.given:
        own = given == draft["model_name_or_path"]
        why = "chat_template names the model" if own else f"chat_template is {given}"
        draft.derive("template", "auto" if own else given, why)


def check_template(draft: Draft) -> Iterator[Problem]:
    """chat_template beside template."""
    if draft["chat_template"] is not None and "template" in draft.given:
        names = ("chat_template", "template")
        yield names, "chat_template and template are both given, and both say how a conversation is written; keep one"


def check_held_out(draft: Draft) -> Iterator[Problem]:
    """val_size, and eval_dataset beside it."""
    size = draft["val_size"]
    if size and size > 1 and size != int(size):
        yield ("val_size",), f"val_size is {size:g}; below 1 it is a part of the rows, from 1 on a number of rows"
    if size and draft["eval_dataset"]:
        yield ("val_size", "eval_dataset"), "val_size and eval_dataset are both given; keep one"


POSE_STAGES = ("sft", "pretrain")


def check_pose(draft: Draft) -> Iterator[Problem]:
    """use_pose_convert with its length and the stages that train token by token."""
    target, max_length = draft["pose_max_length"], draft["max_length"]
    names = ("use_pose_convert", "pose_max_length")
    if not draft["use_pose_convert"]:
        if target is not None:
            yield names, f'pose_max_length is {target} but PoSE is off; add "use_pose_convert": true, or leave it out'
        return
    if target is None:
        yield (
            names,
            "use_pose_convert is true and pose_max_length is missing; give the context to train for, "
            f'"pose_max_length": {4 * max_length}',
        )
    elif target <= max_length:
        yield (
            ("pose_max_length", "max_length"),
            f"pose_max_length is {target} and max_length is {max_length}, so no position can be skipped; raise "
            "pose_max_length, lower max_length, or leave use_pose_convert out",
        )
    if draft["stage"] not in POSE_STAGES:
        yield (
            ("use_pose_convert", "stage"),
            f"use_pose_convert is for the stages {' and '.join(POSE_STAGES)}, stage is {draft['stage']}; leave it out",
        )


def check_lazy(draft: Draft) -> Iterator[Problem]:
    """What needs to know all samples before training can't go with lazy."""
    if not draft["lazy"] or not draft["do_train"]:
        return
    stages = read_stages(draft["data_stages"], names_of(draft["dataset"])).value
    if draft["data_stages"] is None and draft["max_steps"] <= 0:
        yield (
            ("lazy", "max_steps"),
            'lazy reads while training, so nobody knows how many steps an epoch has; add "max_steps": N',
        )
    for stage in stages:
        if stage.steps is None:
            yield ("lazy", "data_stages"), f"lazy needs the length of every stage in steps; {stage.name} has none"
    for name in ("evaluation_strategy", "save_strategy", "logging_strategy"):
        if draft[name] == "epoch":
            yield (
                ("lazy", name),
                f'{name} is epoch but lazy is on, and its epochs have no known length; set "{name}": "steps"',
            )
    if draft["val_size"]:
        yield (
            ("lazy", "val_size"),
            "val_size would read all rows before training, which lazy is there to avoid; give dev data with "
            "eval_dataset, or leave one out",
        )
    if draft["stage"] == "classification":
        yield ("lazy", "stage"), "stage classification reads all rows first, to know the classes; leave lazy out"
    names = names_of(draft["dataset"])
    mixes = [(draft["mixing"], names), *((stage.mixing, stage.dataset or names) for stage in stages)]
    for mixing, there in mixes:
        found = read_mixing(mixing, there).value
        without = [name for name in there or () if found and (name not in found or not _is_share_alone(found[name]))]
        if without:
            yield (
                ("lazy", "mixing", "data_stages"),
                f"lazy does not know how large a source is, so it mixes by shares alone, without epochs and caps; give "
                f"{', '.join(without)} a share, or leave lazy out",
            )


def _is_share_alone(mix: SourceMix) -> bool:
    return mix.share is not None and mix.max_samples is None and mix.max_tokens is None
