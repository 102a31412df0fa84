"""Phi-3 (https://arxiv.org/abs/2404.14219): one projection for queries, keys and values, one for gate and up.

paddlenlp 3.0.0b4 has no such model. This one is its Qwen 2 with those two layers in place of five.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddlenlp.transformers import Qwen2Config, Qwen2Model
from paddlenlp.transformers.conversion_utils import StateDictNameMapping
from paddlenlp.transformers.qwen2.modeling import Qwen2Attention, Qwen2DecoderLayer

from paddle_sft.models.families.phi3 import FAMILY
from paddle_sft.models.networks import rotary
from paddle_sft.models.networks.blocks import column_linear, fused_action, head_size, layers_of, row_linear
from paddle_sft.models.networks.qwen2 import OtherForCausalLM, OtherNames

_SEPARATE = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_FUSED = ("self_attn.qkv_proj", "mlp.gate_up_proj")


class Phi3Config(Qwen2Config):
    """Qwen 2's keys and those of `models.families.phi3`."""

    model_type = "phi3"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**FAMILY.defaults(), **kwargs})


class Phi3MLP(nn.Layer):
    """down(silu(gate) * up), gate and up side by side in one product. [..., hidden] -> [..., hidden]."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.gate_up_proj = column_linear(config, config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = row_linear(config, config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(F.swiglu(self.gate_up_proj(hidden_states)))


def project(layer: nn.Layer, hidden_states: Tensor) -> rotary.Projected:
    """[B, T, hidden] -> queries [B, T, H, D], keys and values [B, T, G, D]."""
    shape = [0, 0] if hidden_states.ndim == 3 else layer.row_layout.shape  # as in rotary.project
    heads = layer.qkv_proj(hidden_states).reshape([*shape, -1, layer.head_dim])
    return tuple(heads.split([layer.num_heads, layer.num_key_value_heads, layer.num_key_value_heads], axis=2))


attend = rotary.attend_by(project)


def fuse_projections(model: nn.Layer, config: Phi3Config) -> None:
    """Make Phi-3's of every attention and MLP layer of a Qwen 2 network."""
    size = head_size(config)
    heads = config.num_attention_heads * size
    for attention in layers_of(model, Qwen2Attention):
        for name in ("q_proj", "k_proj", "v_proj"):
            delattr(attention, name)
        attention.head_dim = size
        attention.qkv_proj = column_linear(config, config.hidden_size, sum(_qkv_sizes(config)))
        attention.o_proj = row_linear(config, heads, config.hidden_size)
        attention._is_initialized = False  # PaddleNLP scales a fresh o_proj by the depth
    for layer in layers_of(model, Qwen2DecoderLayer):
        layer.mlp = Phi3MLP(config)


def _qkv_sizes(config: Phi3Config) -> List[int]:
    groups = config.num_key_value_heads * head_size(config)
    return [config.num_attention_heads * head_size(config), groups, groups]


class _Names(OtherNames):
    """Names of weights, and how they are split over the ranks of tensor parallelism."""

    config_class = Phi3Config
    base_model_prefix = "phi3"

    @classmethod
    def _get_name_mappings(cls, config: Phi3Config) -> List[StateDictNameMapping]:
        kept = cls.names_of_qwen2(config, lambda name: not any(part in name for part in _SEPARATE))
        return kept + cls.names_in_layers(config, [f"{name}.weight" for name in _FUSED], "transpose")

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: Phi3Config, is_split: bool = True) -> Dict[str, Any]:
        actions = super()._get_tensor_parallel_mappings(config, is_split)
        found = {name: action for name, action in actions.items() if not any(part in name for part in _SEPARATE)}
        sizes = (_qkv_sizes(config), [config.intermediate_size] * 2)
        for number in range(config.num_hidden_layers):
            for name, parts in zip(_FUSED, sizes):
                found[f"layers.{number}.{name}.weight"] = fused_action(config, parts, is_split)
        return found

    def _init_weights(self, layer: nn.Layer) -> None:
        super()._init_weights(layer)
        if isinstance(layer, Phi3MLP):  # as PaddleNLP does in its own
            with paddle.no_grad():
                layer.down_proj.weight.scale_(1 / math.sqrt(2 * self.config.num_hidden_layers))

    @classmethod
    def _get_fuse_or_split_param_mappings(cls, config: Phi3Config, is_fuse: bool = False) -> Dict[Any, Any]:
        """None: Qwen 2's would take qkv_proj for its own, which lies otherwise."""
        return {}


class Phi3Model(_Names, Qwen2Model):
    """Ids to last hidden states."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__(config)
        fuse_projections(self, config)


_Names.base_model_class = Phi3Model


class Phi3ForCausalLM(_Names, OtherForCausalLM):
    """Phi-3 with its LM head."""
