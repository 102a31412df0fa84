"""What the keys that choose weights, and those of the methods on linear layers beside LoRA, mean together."""

from __future__ import annotations

from typing import Iterator

from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.values import show

_FREEZE = ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules")
_CHOOSERS = ("freeze", "spectrum_top", "spectrum_config_path")


def check_linear_methods(draft: Draft) -> Iterator[Problem]:
    """Problems of AdaLoRA and VeRA."""
    if draft["adapter"] == "adalora" and draft["adalora_target_r"] > draft["adalora_init_r"]:
        yield (
            ("adalora_target_r", "adalora_init_r"),
            f"adalora_target_r {draft['adalora_target_r']} is above adalora_init_r {draft['adalora_init_r']}: ranks "
            "are cut, never added; lower the one or raise the other",
        )
    if draft["adapter"] == "adalora" and draft["fp16"]:
        yield (
            ("fp16", "adapter"),
            "adapter adalora weighs the gradients, which fp16 scales and sometimes drops; use bf16, or another adapter",
        )
    if draft["adapter"] == "adalora" and draft["sharding"]:
        yield (
            ("sharding", "adapter"),
            "adapter adalora weighs whole gradients on every rank, and sharding splits them; leave sharding out",
        )
    if draft["adapter"] == "vera" and draft["vera_d_initial"] == 0:
        yield (
            ("vera_d_initial",),
            "vera_d_initial must not be 0: the other vector starts at 0, and neither would move",
        )


def check_weights(draft: Draft) -> Iterator[Problem]:
    """Problems of freeze, Spectrum and the rates of layers."""
    asked = [name for name in _CHOOSERS if draft[name]]
    if draft["adapter"] is not None:
        for name in asked:
            yield (
                (name, "adapter"),
                f"{name} is {show(draft[name])} and adapter is {draft['adapter']}: an adapter freezes every weight of "
                "the model; keep one of the two",
            )
    if len(asked) > 1:
        yield tuple(asked), f"{' and '.join(asked)} each say which weights are trained; keep one"
    for name in _FREEZE:
        if name in draft.given and not draft["freeze"]:
            yield (
                (name, "freeze"),
                f'{name} is {show(draft[name])} but freeze is off; add "freeze": true or leave {name} out',
            )
    if draft["spectrum_top"] and max(draft["tensor_parallel_degree"], draft["pipeline_parallel_degree"]) > 1:
        yield (
            ("spectrum_top",),
            "spectrum_top measures whole matrices, and with tensor_parallel_degree or pipeline_parallel_degree a rank "
            "has parts; run paddle-sft spectrum first and name its file in spectrum_config_path",
        )
    if draft["freeze"] and draft["freeze_trainable_layers"] == 0 and not draft["freeze_extra_modules"]:
        yield (
            ("freeze_trainable_layers",),
            "freeze_trainable_layers is 0 and freeze_extra_modules names nothing, so nothing would be trained",
        )
