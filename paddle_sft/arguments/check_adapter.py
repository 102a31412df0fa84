"""What the keys of the adapter methods mean together."""

from __future__ import annotations

from typing import Iterator, List, Set

from paddle_sft.arguments.adapter import ALL_LINEAR, AdapterArguments, read_targets
from paddle_sft.arguments.adapter_methods import METHODS
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
        for name in (*own, "lora_target_modules"):
            if draft.has(name):
                draft.note(name, "not used: the adapter in lora_path brings its own")
    elif method in METHODS and "lora_alpha" in METHODS[method].keys and draft["lora_alpha"] is None:
        draft.derive("lora_alpha", 2.0 * draft["lora_rank"], f"2 * lora_rank {draft['lora_rank']}")
    if draft["lora_target_modules"] == "all":
        draft.derive("lora_target_modules", ALL_LINEAR, "lora_target_modules all means all-linear")
    if method in METHODS and METHODS[method].learning_rate and "learning_rate" not in draft.given:
        draft.derive("learning_rate", METHODS[method].learning_rate, f"the default of adapter {method}")


def _switched(draft: Draft) -> List[str]:
    """The methods whose own key is true."""
    return [name for name, method in METHODS.items() if method.switch and draft[method.switch]]


def check_adapter(draft: Draft) -> Iterator[Problem]:
    """Problems of the keys about adapters."""
    try:
        draft.values["lora_target_modules"] = read_targets(draft["lora_target_modules"])
    except ValueError as error:
        yield ("lora_target_modules",), f"lora_target_modules {error}"
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
