"""On which hub a model name is looked up: three keys that every command with a model has."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple

from paddle_sft.arguments.fields import argument
from paddle_sft.core.errors import ArgumentError


class HubKey(NamedTuple):
    """A key, what it means, and the hub it chooses."""

    hub: str
    """A key of models.hubs.HUBS."""
    help: str
    zh: str


HUB_KEYS: Dict[str, HubKey] = {
    "from_hf_hub": HubKey(
        "huggingface",
        "Look the model name up on the Hugging Face hub (mirror: HF_ENDPOINT).",
        "在 Hugging Face hub 上查找模型名（镜像：HF_ENDPOINT）。",
    ),
    "from_aistudio": HubKey(
        "aistudio",
        "Look the model name up on AI Studio (mirror: AISTUDIO_ENDPOINT).",
        "在 AI Studio 上查找模型名（镜像：AISTUDIO_ENDPOINT）。",
    ),
    "from_modelscope": HubKey(
        "modelscope",
        "Look the model name up on ModelScope (mirror: MODELSCOPE_ENDPOINT; needs pip install modelscope).",
        "在 ModelScope 上查找模型名（镜像：MODELSCOPE_ENDPOINT；需要 pip install modelscope）。",
    ),
}


def hub_key(name: str) -> Any:
    """The field of a key, for a dataclass of arguments."""
    return argument(False, HUB_KEYS[name].help, HUB_KEYS[name].zh)


def hub_problem(values: Mapping[str, Any]) -> str:
    """What is wrong with the keys together; empty when at most one is on."""
    on = [name for name in HUB_KEYS if values[name]]
    return f"{' and '.join(on)} are on; a name is looked up on one hub, keep one" if len(on) > 1 else ""


def hub_of(arguments: Any) -> str:
    """The hub that a command's arguments choose; PaddleNLP's registry if none of the keys is on.

    Raises:
        ArgumentError: more than one is on.
    """
    problem = hub_problem({name: getattr(arguments, name) for name in HUB_KEYS})
    if problem:
        raise ArgumentError(problem)
    return next((key.hub for name, key in HUB_KEYS.items() if getattr(arguments, name)), "paddlenlp")
