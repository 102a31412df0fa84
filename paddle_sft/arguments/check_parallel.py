"""What the keys of parallelism say about one another and about the rest of a run."""

from __future__ import annotations

from typing import Iterator, List, Tuple

from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.values import show

STAGES = {"stage1": 1, "stage2": 2, "stage3": 3}
_SCALER = "ranks don't share its loss scaling"
_SPLITTING = ("tensor_parallel_degree", "pipeline_parallel_degree", "sep_parallel_degree")


def sharding_stage(value: object) -> int:
    """0 for none. `sharding` is true (stage1), or the words that PaddleNLP takes."""
    words = "stage1" if value is True else str(value or "")
    return max((STAGES.get(word, 0) for word in words.replace(",", " ").split()), default=0)


def offloads(value: object) -> bool:
    """Whether `sharding` asks for the optimizer's state in host memory."""
    return "offload" in str(value or "").replace(",", " ").split()


def check_parallel(draft: Draft) -> Iterator[Problem]:
    """Degrees that need one another, and what can't be combined."""
    yield from _check_sharding(draft)
    tensor, pipeline, sep = (draft[name] for name in _SPLITTING)
    if draft["sequence_parallel"] and tensor < 2:
        yield (
            ("sequence_parallel", "tensor_parallel_degree"),
            "sequence_parallel splits activations among the ranks of tensor parallelism, and tensor_parallel_degree is "
            f"{tensor}; set it to 2 or more",
        )
    if sep > 1 and max(tensor, pipeline) > 1:
        other = "tensor_parallel_degree" if tensor > 1 else "pipeline_parallel_degree"
        yield (
            ("sep_parallel_degree", other),
            f"sep_parallel_degree {sep} with {other} {draft[other]} is not verified; use one of them (tensor "
            "parallelism splits sequences too, with sequence_parallel)",
        )
    if draft["sequence_parallel"] and draft["adapter"] == "reft" and draft["dropout"]:
        why = "ranks would drop the same numbers of different tokens; leave dropout out"
        yield ("dropout", "sequence_parallel"), f"ReFT's dropout does not go with sequence_parallel: {why}"
    yield from _check_virtual(draft)
    split = [name for name in _SPLITTING if draft[name] > 1]
    for name in split:
        yield from _check_split(draft, name)


def _check_virtual(draft: Draft) -> Iterator[Problem]:
    """The interleaved schedule goes in groups of as many micro-batches as there are stages. The last step of an epoch,
    which may have fewer, is filled up."""
    parts, stages, micro_batches = (
        draft[name] for name in ("virtual_pp_degree", "pipeline_parallel_degree", "gradient_accumulation_steps")
    )
    if parts < 2:
        return
    if stages < 2:
        yield (
            ("virtual_pp_degree", "pipeline_parallel_degree"),
            f"virtual_pp_degree {parts} gives each stage of a pipeline {parts} parts of the stack, and "
            f"pipeline_parallel_degree is {stages}; set it to 2 or more, or leave virtual_pp_degree out",
        )
    elif draft["do_train"] and draft["global_batch_size"] is None and micro_batches < stages:
        yield (
            ("virtual_pp_degree", "gradient_accumulation_steps"),
            too_few_to_interleave(
                parts,
                stages,
                f"gradient_accumulation_steps is {micro_batches}; set it to {stages} or more (with a smaller "
                "per_device_train_batch_size the step stays as large)",
            ),
        )


def too_few_to_interleave(parts: int, stages: int, given: str) -> str:
    """What a run is refused with whose steps have fewer micro-batches than its pipeline has stages.

    Args:
        given: how many they have, and what to do.
    """
    return (
        f"virtual_pp_degree {parts} interleaves at least as many micro-batches as there are stages, {stages}, and "
        f"{given}, or leave virtual_pp_degree out"
    )


def _check_sharding(draft: Draft) -> Iterator[Problem]:
    value = draft["sharding"]
    words: List[str] = [] if value in (None, True, False) else str(value).replace(",", " ").split()
    unknown = [word for word in words if word not in (*STAGES, "offload")]
    if unknown or len([word for word in words if word in STAGES]) > 1:
        yield ("sharding",), f"sharding is {show(value)}; allowed: stage1, stage2, stage3, true (stage1), or empty"
        return
    if offloads(value) and not sharding_stage(value):
        yield ("sharding",), f"sharding is {show(value)}: offload needs a stage; write stage1 offload, or another stage"
    stage, degree = sharding_stage(value), draft["sharding_parallel_degree"]
    if stage == 0 and degree > 1:
        yield (
            ("sharding_parallel_degree", "sharding"),
            f'sharding_parallel_degree is {degree} and sharding is off; add "sharding": "stage1" or leave it out',
        )
    if stage and degree in (0, 1) and "sharding_parallel_degree" in draft.given:
        yield (
            ("sharding_parallel_degree", "sharding"),
            f"sharding stage{stage} among {degree} rank shares nothing; leave sharding_parallel_degree out to take all "
            "ranks that see different rows",
        )
    if stage and draft["fp16"]:
        yield ("fp16", "sharding"), f"fp16 does not go with sharding stage{stage} yet: {_SCALER}; use bf16"
    if stage > 1:
        yield from _check_later_stages(draft, stage)
        for name in _SPLITTING:
            if draft[name] > 1:
                yield (
                    ("sharding", name),
                    f"sharding stage{stage} with {name} {draft[name]} is not verified; use stage1 beside it",
                )


def _check_later_stages(draft: Draft, stage: int) -> Iterator[Problem]:
    if draft["stage"] == "classification":
        yield ("stage", "sharding"), f"stage classification does not go with sharding stage{stage} yet; use stage1"
    if stage < 3:
        return
    for key in ("do_predict", "qat"):
        if draft[key]:
            why = "no rank has whole matrices; use stage2"
            yield (key, "sharding"), f"{key} does not go with sharding stage3 yet: {why}"
    if draft["weight_quantize_algo"]:
        draft.note("sharding", "stage3 shares out the floats of a quantised base; every rank keeps all of its codes")
    if draft["recompute"]:
        draft.note("recompute", "holds anyway: sharding stage3 computes every layer once more in the backward pass")


def _check_split(draft: Draft, name: str) -> Iterator[Problem]:
    """What does not go with a model that no rank has whole."""
    degree = f"{name} {draft[name]}"
    for key, why in _REFUSED:
        if draft[key]:
            yield (key, name), f"{key} does not go with {degree} yet: {why}"
    if draft["stage"] == "classification":
        yield ("stage", name), f"stage classification does not go with {degree} yet; use data parallelism or sharding"
    if draft["fp16"]:
        yield ("fp16", name), f"fp16 does not go with {degree} yet: {_SCALER}; use bf16"
    if draft["adapter"] == "prefix_tuning" and not draft["prefix_projection"]:
        why = "without its MLP a prefix starts at keys and values that the whole model computes; leave it out"
        yield ("prefix_projection", name), f"prefix_projection false does not go with {degree}: {why}"
    if name == "tensor_parallel_degree":
        if draft["optim"] == "adafactor":
            why = "it keeps means over rows and columns of whole matrices; use adamw"
            yield ("optim", name), f"optim adafactor does not go with {degree}: {why}"
        if draft["lora_dropout"]:
            why = "ranks would drop other inputs than one process; leave it out"
            yield ("lora_dropout", name), f"lora_dropout {draft['lora_dropout']:g} does not go with {degree} yet: {why}"
    if name == "pipeline_parallel_degree" and draft["pissa_niter"]:
        why = "its random start would differ from stage to stage; leave it out for the exact decomposition"
        yield ("pissa_niter", name), f"pissa_niter does not go with {degree}: {why}"
    if name == "pipeline_parallel_degree" and draft["recompute"] and draft["recompute_granularity"] != "full":
        yield (
            ("recompute_granularity", name),
            f"recompute_granularity {draft['recompute_granularity']} does not go with {degree} yet; use full",
        )


_REFUSED: Tuple[Tuple[str, str], ...] = (
    ("do_predict", "answers are written by one rank; train, then run generate on the result"),
    ("neftune", "the noise would differ from rank to rank; leave it out"),
    ("new_special_tokens", "the vocabulary grows in one process; add the tokens first, in a run of one rank"),
    ("qat", "its scales are measured on whole layers; use data parallelism or sharding"),
    ("lora_modules_to_save", "what an adapter trains is on every rank, or split with a layer; leave it out"),
    ("lora_path", "nobody compared it; a run that was saved at one layout may be resumed at another"),
    ("freeze", "nobody compared it; use data parallelism or sharding"),
    ("spectrum_top", "it looks at whole matrices; use data parallelism or sharding"),
    ("spectrum_config_path", "nobody compared it; use data parallelism or sharding"),
)
