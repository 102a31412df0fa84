"""Qwen 3, dense (https://arxiv.org/abs/2505.09388): Qwen 2 whose queries and keys are normed head by head.

paddlenlp 3.0.0b4 has no such model. This one is its Qwen 2, with the same layers under tensor and pipeline parallelism.
"""

from __future__ import annotations

from typing import Any, Dict, List

from paddle import Tensor, nn
from paddlenlp.transformers import Qwen2Config, Qwen2ForCausalLMPipe, Qwen2Model
from paddlenlp.transformers.conversion_utils import StateDictNameMapping
from paddlenlp.transformers.qwen2.modeling import Qwen2Attention

from paddle_sft.models.families.qwen3 import FAMILY
from paddle_sft.models.fast import rms_norm
from paddle_sft.models.networks import rotary
from paddle_sft.models.networks.blocks import column_biases, give_heads, head_size, layers_of
from paddle_sft.models.networks.qwen2 import OtherForCausalLM, OtherNames

_NORMS = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
_QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]


class Qwen3Config(Qwen2Config):
    """Qwen 2's keys and those of `models.families.qwen3`."""

    model_type = "qwen3"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**FAMILY.defaults(), **kwargs})


class HeadNorm(nn.Layer):
    """RMSNorm over the numbers of each head, one scale for all heads. [B, T, H, D] -> [B, T, H, D]."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        ones = nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([head_size(config)], default_initializer=ones)
        self.variance_epsilon = config.rms_norm_eps
        self.is_parallel = config.tensor_parallel_degree > 1

    def forward(self, heads: Tensor) -> Tensor:
        weight = _summed_over_ranks(self.weight) if self.is_parallel else self.weight
        return rms_norm(heads, weight, self.variance_epsilon)


def _summed_over_ranks(weight: Tensor) -> Tensor:
    """A weight that every rank of tensor parallelism applies to heads of its own: the gradients are added up."""
    from paddle.distributed import collective, fleet

    group = fleet.get_hybrid_communicate_group().get_model_parallel_group()
    return collective._c_identity(weight, group=group)


def project(layer: nn.Layer, hidden_states: Tensor) -> rotary.Projected:
    """Qwen 2's queries, keys and values, the first two normed."""
    query, key, value = rotary.project(layer, hidden_states)
    return layer.q_norm(query), layer.k_norm(key), value


attend = rotary.attend_by(project)


def norm_heads(model: nn.Layer, config: Qwen3Config) -> None:
    """Make Qwen 3's of every attention layer of a Qwen 2 network."""
    biased = bool(config.attention_bias)
    for attention in layers_of(model, Qwen2Attention):
        give_heads(attention, config, biased, biased)
        attention.q_norm, attention.k_norm = HeadNorm(config), HeadNorm(config)


class _Names(OtherNames):
    """Names of weights, and how they are split over the ranks of tensor parallelism."""

    config_class = Qwen3Config
    base_model_prefix = "qwen3"

    @classmethod
    def _get_name_mappings(cls, config: Qwen3Config) -> List[StateDictNameMapping]:
        biases = [f"{name}.bias" for name in (*_QKV, "self_attn.o_proj")] if config.attention_bias else []
        kept = cls.names_of_qwen2(config, lambda name: not name.endswith("_proj.bias"))
        return kept + cls.names_in_layers(config, _NORMS + biases)

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: Qwen3Config, is_split: bool = True) -> Dict[str, Any]:
        actions = super()._get_tensor_parallel_mappings(config, is_split)
        weights = {name: action for name, action in actions.items() if not name.endswith(".bias")}
        return column_biases(config, weights, _QKV if config.attention_bias else [])


class Qwen3Model(_Names, Qwen2Model):
    """Ids to last hidden states."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config)
        norm_heads(self, config)


_Names.base_model_class = Qwen3Model


class Qwen3ForCausalLM(_Names, OtherForCausalLM):
    """Qwen 3 with its LM head."""


class Qwen3ForCausalLMPipe(Qwen2ForCausalLMPipe):
    """Qwen 3 in stages, for pipeline parallelism."""

    config_class = Qwen3Config
    _get_tensor_parallel_mappings = Qwen3ForCausalLM._get_tensor_parallel_mappings

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config)
        norm_heads(self, config)

    def add_sequential_layer(self, layer_desc: Any, name_prefix: str = "") -> None:
        """The same layer under the name that it has in the whole model."""
        super().add_sequential_layer(layer_desc, name_prefix.replace("qwen2", "qwen3"))
