"""What the keys of the adapter methods mean together."""

from __future__ import annotations

from typing import Iterator, List, Set

from paddle_sft.arguments.adapter import ALL_LINEAR, AdapterArguments, read_targets
from paddle_sft.arguments.adapter_methods import METHODS
from paddle_sft.arguments.check_adapter_model import check_model_keys
from paddle_sft.arguments.draft import Draft, Problem
from paddle_sft.arguments.fields import keys_of
from paddle_sft.arguments.values import show

_DEFAULTS = {name: key.default for name, key in keys_of(AdapterArguments, "adapter").items()}
_OF_METHODS: Set[str] = {key for method in METHODS.values() for key in method.keys}


def derive_adapter(draft: Draft) -> None:
    switched = _switched(draft)
    if draft["adapter"] is None and len(switched) == 1:
        draft.derive("adapter", switched[0], f"{METHODS[switched[0]].switch} is true")
    method = draft["adapter"]
    if draft["lora_path"]:
        own = METHODS[method].keys if method in METHODS else ()
        for name in (*own, "lora_target_modules", "lora_modules_to_save"):
            if draft.has(name):
                draft.note(name, "not used: the adapter in lora_path brings its own")
    elif method in METHODS and "lora_alpha" in METHODS[method].keys and draft["lora_alpha"] is None:
        _derive_alpha(draft, METHODS[method].alpha_per_rank)
    elif method in METHODS and METHODS[method].virtual_tokens and draft["num_virtual_tokens"] is None:
        draft.derive("num_virtual_tokens", METHODS[method].virtual_tokens, f"the default of adapter {method}")
    if draft["lora_target_modules"] == "all":
        draft.derive("lora_target_modules", ALL_LINEAR, "lora_target_modules all means all-linear")
    if method in METHODS and METHODS[method].learning_rate and "learning_rate" not in draft.given:
        draft.derive("learning_rate", METHODS[method].learning_rate, f"the default of adapter {method}")


_RSLORA_ALPHA = 4.0
"""PaddleNLP's: at rank 8 the scaling is 1.4, where plain LoRA's default has 2."""


def _derive_alpha(draft: Draft, per_rank: float) -> None:
    rank = draft["lora_rank"]
    if draft["rslora"]:
        draft.derive("lora_alpha", _RSLORA_ALPHA, "rslora: alpha / sqrt(lora_rank) needs no alpha that grows with it")
    else:
        draft.derive("lora_alpha", per_rank * rank, f"{per_rank:g} * lora_rank {rank}")


def _switched(draft: Draft) -> List[str]:
    """The methods whose own key is true; of a method and one that refines it, the latter."""
    found = [name for name, method in METHODS.items() if method.switch and draft[method.switch]]
    refined = {METHODS[name].refines for name in (*found, draft["adapter"]) if name in METHODS}
    return [name for name in found if name not in refined]


def check_adapter(draft: Draft) -> Iterator[Problem]:
    """Problems of the keys about adapters."""
    for name in ("lora_target_modules", "lora_modules_to_save"):
        try:
            is_off = name == "lora_modules_to_save" and draft[name] == []
            draft.values[name] = None if is_off else read_targets(draft[name])
        except ValueError as error:
            yield (name,), f"{name} {error}"
    yield from _check_layers(draft)
    method, switched = draft["adapter"], _switched(draft)
    several = list(dict.fromkeys(switched if method is None else [method, *switched]))
    if len(several) > 1:
        switches = [METHODS[name].switch for name in switched]
        yield ("adapter", *switches), f"one adapter at a time: {' and '.join(several)} are asked for; keep one"
        return
    if method is None:
        yield from _without_adapter(draft)
    elif method in METHODS:
        yield from _foreign_keys(draft, method)
        yield from check_model_keys(draft, method)


def _check_layers(draft: Draft) -> Iterator[Problem]:
    for name, least in (("rank_pattern", 1), ("alpha_pattern", 0)):
        for layer, value in draft[name].items():
            if not (value > 0 and value >= least):
                bound = "at least 1" if least else "above 0"
                yield (name,), f"{name} must hold numbers {bound}, got {value!r} for {layer!r}"
    adapted, whole = draft["lora_target_modules"], draft["lora_modules_to_save"]
    both = sorted(set(adapted) & set(whole)) if isinstance(adapted, list) and isinstance(whole, list) else []
    if both:
        yield (
            ("lora_target_modules", "lora_modules_to_save"),
            f"{', '.join(both)} stands in lora_target_modules and in lora_modules_to_save: a layer gets an update "
            "or is trained whole; take it out of one",
        )


def _without_adapter(draft: Draft) -> Iterator[Problem]:
    for name in ("lora_path", "lora_target_modules", "lora_modules_to_save", *sorted(_OF_METHODS)):
        if _is_set(draft, name):
            owner = next((one for one, method in METHODS.items() if name in method.keys), "lora")
            switch = METHODS[owner].switch
            asked = f'"{switch}": true' if switch else f'"adapter": "{owner}"'
            given = switch or f"adapter {owner}"
            yield (
                (name, "adapter"),
                f"{name} is {show(draft[name])} but {given} is off; add {asked} or leave {name} out",
            )


def _foreign_keys(draft: Draft, method: str) -> Iterator[Problem]:
    foreign = _OF_METHODS - set(METHODS[method].keys)
    if not METHODS[method].on_layers:
        foreign = foreign | {"lora_target_modules"}
    for name in sorted(foreign):
        if _is_set(draft, name):
            users = ", ".join(one for one, keys in METHODS.items() if name in keys.keys) or "those on linear layers"
            yield (
                (name, "adapter"),
                f"{name} is {show(draft[name])} but adapter {method} has no such key (it is of: {users}); leave it out",
            )


def _is_set(draft: Draft, name: str) -> bool:
    return name in draft.given and draft[name] not in (_DEFAULTS[name], [])
