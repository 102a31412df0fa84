"""Which model families load exactly, and what each of them can't honour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Tuple

from paddle_sft.core.errors import ModelError

_LLAMA_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_theta",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A causal language model of PaddleNLP that was compared with Hugging Face transformers."""

    config_class: str
    model_class: str
    hf_architecture: str
    hf_keys: Tuple[str, ...]
    """Keys that a Hugging Face config.json of this family needs; both sides spell them alike."""
    hf_constants: Mapping[str, Any]
    """Keys that only Hugging Face has, at the value which PaddleNLP's class computes with."""
    refusals: Tuple[Callable[[Mapping[str, Any]], str], ...]
    """Each looks at a config and returns what can't be honoured, or an empty string."""


def _other_activation(*allowed: str) -> Callable[[Mapping[str, Any]], str]:
    def refuse(config: Mapping[str, Any]) -> str:
        given = config.get("hidden_activation") or config.get("hidden_act") or allowed[0]
        return "" if given in allowed else f"hidden_act {given!r} (this class computes {allowed[0]})"

    return refuse


def _other_rope(*allowed: str) -> Callable[[Mapping[str, Any]], str]:
    def refuse(config: Mapping[str, Any]) -> str:
        scaling = config.get("rope_scaling") or {}
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        return "" if kind in allowed else f"rope_scaling of type {kind!r} (available: {', '.join(allowed)})"

    return refuse


def _tied_head(config: Mapping[str, Any]) -> str:
    return "tie_word_embeddings true (PaddleNLP 3.0.0b4 gives this family its own head)" * bool(
        config.get("tie_word_embeddings")
    )


def _other_head_size(config: Mapping[str, Any]) -> str:
    size = config.get("head_dim")
    usual = config.get("hidden_size", 0) // max(config.get("num_attention_heads", 1), 1)
    return "" if size in (None, usual) else f"head_dim {size} (this class computes hidden_size / heads = {usual})"


def _biases(*names: str) -> Callable[[Mapping[str, Any]], str]:
    def refuse(config: Mapping[str, Any]) -> str:
        given = [name for name in names if config.get(name)]
        return f"{', '.join(given)} true (this class has no such bias)" if given else ""

    return refuse


FAMILIES: Dict[str, Family] = {
    "llama": Family(
        "LlamaConfig", "LlamaForCausalLM", "LlamaForCausalLM",
        _LLAMA_KEYS + ("rope_scaling",), {"hidden_act": "silu"},
        (_other_activation("silu"), _other_rope("default", "llama3"), _other_head_size,
         _biases("attention_bias", "mlp_bias")),
    ),
    "qwen2": Family(
        "Qwen2Config", "Qwen2ForCausalLM", "Qwen2ForCausalLM",
        _LLAMA_KEYS + ("hidden_act", "use_sliding_window", "attention_dropout"), {},
        (_other_activation("silu"), _other_rope("default"), _other_head_size),
    ),
    "mistral": Family(
        "MistralConfig", "MistralForCausalLM", "MistralForCausalLM",
        _LLAMA_KEYS + ("hidden_act", "sliding_window"), {},
        (_other_activation("silu"), _other_rope("default"), _other_head_size, _tied_head),
    ),
    "gemma": Family(
        "GemmaConfig", "GemmaForCausalLM", "GemmaForCausalLM",
        _LLAMA_KEYS + ("head_dim",), {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
        (_other_activation("gelu_pytorch_tanh", "gelu"), _other_rope("default"), _biases("attention_bias")),
    ),
    "bloom": Family(
        "BloomConfig", "BloomForCausalLM", "BloomForCausalLM",
        ("vocab_size", "hidden_size", "n_layer", "n_head", "layer_norm_epsilon", "initializer_range",
         "apply_residual_connection_post_layernorm", "hidden_dropout", "attention_dropout",
         "bos_token_id", "eos_token_id", "pad_token_id"),
        {}, (),
    ),
}  # fmt: skip


def find_family(config: Mapping[str, Any], place: str) -> Family:
    """The family that a config.json names in `model_type`.

    Raises:
        ModelError: a family that was not compared, or a key of it that PaddleNLP's class can't honour.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        raise ModelError(f"{place}: model_type is {name!r}; families that load exactly today: {', '.join(FAMILIES)}")
    problems: List[str] = [text for text in (refuse(config) for refuse in FAMILIES[name].refusals) if text]
    if problems:
        raise ModelError(
            f"{place}: {name} with {'; '.join(problems)} would compute something else than the checkpoint says"
        )
    return FAMILIES[name]


def attention_window(config: Mapping[str, Any]) -> int:
    """Tokens a query may look back over, 0 for no limit.

    PaddleNLP 3.0.0b4 ignores the window, so rows must not be longer than this.
    """
    if config.get("model_type") == "qwen2" and not config.get("use_sliding_window"):
        return 0
    return int(config.get("sliding_window") or 0)
