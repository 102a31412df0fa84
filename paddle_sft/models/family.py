"""What a model family is to this suite: which classes compute it, and which keys of its config.json they honour."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any, Callable, Dict, List, Mapping, Tuple

Config = Mapping[str, Any]
Refusal = Callable[[Config], str]

REQUIRED = object()
"""Marks a key that a config.json must give: no default of it fits two models."""

COMMON_INERT = (
    "_name_or_path", "architectures", "attn_implementation", "auto_map", "chunk_size_feed_forward", "dtype",
    "id2label", "label2id", "is_decoder", "is_encoder_decoder", "model_type", "output_attentions",
    "output_hidden_states", "problem_type", "return_dict", "tokenizer_class", "torch_dtype", "transformers_version",
    "unsloth_version", "use_cache",
)  # fmt: skip
"""Keys of any config.json that don't change what a forward pass computes."""

_PADDLENLP_KEYS: Mapping[str, Tuple[Any, ...]] = {
    "alibi": (False, None),
    "rope_scaling_type": (None,),
    "use_long_sequence_strategies": (False, None),
    "fuse_attention_qkv": (False, None),
    "fuse_attention_ffn": (False, None),
}
"""Keys of PaddleNLP's own that change the network or its weights -> what is computed here, whatever the family."""


@dataclass(frozen=True)
class Family:
    """A causal language model, by the `model_type` of its config.json.

    Classes and functions of the network are named as "module:name" and imported when a model is built: reading a config
    needs no paddle. Every key that transformers 5 has for the family stands in `keys`, `only`, `spelled` or `inert`
    (tests/parity compares the list).
    """

    config_class: str
    model_class: str
    hf_architecture: str
    keys: Mapping[str, Any]
    """Keys the class computes with, as Hugging Face spells them -> what transformers takes where one is left out."""
    attention: Tuple[str, str]
    """The class of the attention layers, and the function that computes one by segments (see `models.packed`)."""
    only: Mapping[str, Tuple[Any, ...]]
    """Keys that the class doesn't read -> the values it computes with, the first of them also where it's left out."""
    inert: Tuple[str, ...] = ()
    """Further keys that don't change what a forward pass computes."""
    refusals: Tuple[Refusal, ...] = ()
    """Each looks at a config and returns what can't be honoured, or an empty string."""
    spelled: Mapping[str, str] = field(default_factory=dict)
    """A key of `keys` -> PaddleNLP's spelling of it, where that differs."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Another name that transformers takes for a key of `keys` -> that key."""
    mend: str = ""
    """A function (model, config) that mends the built network in place, "module:name"; empty for none."""
    window: Callable[[Config, int], int] = lambda config, layer: 0
    """Tokens a query of a layer (from 0) may look back over, itself included; 0 for no limit."""
    beyond_kernels: Callable[[Config], str] = lambda config: ""
    """What of its attention Paddle's kernel and the compiled operator don't compute, as `attention.segments` calls it;
    empty if they compute it."""
    rope_names: Mapping[str, str] = field(default_factory=dict)
    """Another name that transformers takes for a kind of rotary positions -> that kind."""
    splits: Tuple[str, ...] = ()
    """How it may be split over ranks: tensor, sequence (beside tensor), pipeline, sep, stage3 (of sharding). Tests
    compare each of them with one process."""
    scales_embedding: bool = False
    """Whether word vectors are multiplied by sqrt(hidden_size) before the first layer."""
    trains_padding: bool = False
    """Whether what reads the padding token trains its embedding (see `models.padding`)."""
    norms: Tuple[str, ...] = ()
    """Class names of its RMSNorm layers, which compute in one pass on a CPU (`models.fast`)."""
    last_position: str = ""
    """The key whose value is the longest text that it has positions for; empty where positions have no end."""
    buffers: Tuple[str, ...] = ()
    """Ends of the names of stored tensors that are no weights: old folders keep what is computed from the config."""

    def refused(self, config: Config) -> List[str]:
        """What of a config this family's class can't honour."""
        only = {**_PADDLENLP_KEYS, **self.only}
        problems = [_refuse_value(key, config.get(key, allowed[0]), allowed) for key, allowed in only.items()]
        problems += [refuse(config) for refuse in self.refusals]
        return [text for text in problems if text]

    def missing(self, config: Config) -> List[str]:
        """Keys that the config must give and doesn't."""
        return [key for key, default in self.keys.items() if default is REQUIRED and config.get(key) is None]

    def unknown(self, config: Config) -> List[str]:
        """Keys of a config that nobody here reads, in their order."""
        known = {*self.keys, *self.only, *self.inert, *self.aliases, *COMMON_INERT}
        return [key for key in config if key not in known]

    def defaults(self) -> Dict[str, Any]:
        """What transformers takes for keys that are left out."""
        return {key: value for key, value in self.keys.items() if value is not REQUIRED}


def _refuse_value(key: str, given: Any, allowed: Tuple[Any, ...]) -> str:
    if given in allowed:
        return ""
    return f"{key} {_said(given)} (this class computes {' or '.join(_said(value) for value in allowed)})"


def _said(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


ACTIVATION_NAMES = (
    "relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "silu", "swish", "tanh",
)  # fmt: skip
"""Those of `models.networks.activations`."""


def other_activation(key: str) -> Refusal:
    """Refuse an activation function that isn't available."""

    def refuse(config: Config) -> str:
        name = config.get(key)
        return "" if name in (None, *ACTIVATION_NAMES) else f"{key} {name!r} (available: {', '.join(ACTIVATION_NAMES)})"

    return refuse


def router_loss(config: Config) -> str:
    """Refuse to train with the load-balancing loss: over a step of several batches it is no sum over tokens."""
    if not config.get("output_router_logits"):
        return ""
    return 'output_router_logits true (its loss is not computed; "output_router_logits": false trains without it)'


def window_of_layer(config: Config, layer: int) -> int:
    """The window as the Qwen families write it: in the layers that `layer_types` calls sliding, or else, where
    use_sliding_window is on, in those from max_window_layers on."""
    kinds = config.get("layer_types")
    slides = kinds[layer] == "sliding_attention" if kinds else layer >= config.get("max_window_layers", 0)
    return int(config.get("sliding_window") or 0) if slides and config.get("use_sliding_window") else 0


@lru_cache(maxsize=None)
def find_named(name: str) -> Any:
    """The class or function that a "module:name" names; imports its module."""
    module, attribute = name.split(":")
    return getattr(import_module(module), attribute)
