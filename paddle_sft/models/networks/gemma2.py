"""Gemma 2 (https://arxiv.org/abs/2408.00118), which paddlenlp 3.0.0b4 loads as the first Gemma without a word."""

from __future__ import annotations

from typing import Any, List, Optional

import paddle
from paddle import Tensor, nn
from paddlenlp.transformers.conversion_utils import StateDictNameMapping
from paddlenlp.transformers.gemma.configuration import GemmaConfig
from paddlenlp.transformers.gemma.modeling import (
    GemmaDecoderLayer,
    GemmaForCausalLM,
    GemmaLMHead,
    GemmaModel,
    GemmaPretrainedModel,
    GemmaPretrainingCriterion,
    GemmaRMSNorm,
)

from paddle_sft.models.families.gemma2 import FAMILY
from paddle_sft.models.networks.rotary import mix
from paddle_sft.models.packed import Cache, LayerRows


class Gemma2Config(GemmaConfig):
    """Gemma's keys and those of `models.families.gemma2`."""

    model_type = "gemma2"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**FAMILY.defaults(), **kwargs})


def attend(
    layer: nn.Layer,
    rows: LayerRows,
    hidden_states: Tensor,
    position_ids: Optional[Tensor] = None,
    past_key_value: Cache = None,
    *args: Any,
    **kwargs: Any,
) -> tuple:
    """[B, T, hidden] -> ([B, T, hidden], the cache)."""
    config = layer.config
    return mix(
        layer,
        rows,
        hidden_states,
        past_key_value,
        scale=config.query_pre_attn_scalar**-0.5,
        softcap=config.attn_logit_softcapping or 0.0,
    )


class Gemma2DecoderLayer(GemmaDecoderLayer):
    """Attention and MLP, each between two norms and beside the residual."""

    def __init__(self, config: Gemma2Config, layerwise_recompute: bool = False) -> None:
        super().__init__(config, layerwise_recompute)
        self.pre_feedforward_layernorm = GemmaRMSNorm(config)
        self.post_feedforward_layernorm = GemmaRMSNorm(config)

    def forward(
        self,
        hidden_states: Tensor,
        position_ids: Optional[Tensor] = None,
        attention_mask: Optional[Tensor] = None,
        output_attentions: bool = False,
        past_key_value: Cache = None,
        use_cache: bool = False,
        alibi: Optional[Tensor] = None,
    ) -> Any:
        """[B, T, hidden] -> [B, T, hidden], with the cache beside it if one is asked for."""
        attended, present = self.self_attn(self.input_layernorm(hidden_states), position_ids, past_key_value)
        hidden_states = hidden_states + self.post_attention_layernorm(attended)
        inner = self.mlp(self.pre_feedforward_layernorm(hidden_states))
        hidden_states = hidden_states + self.post_feedforward_layernorm(inner)
        return (hidden_states, present) if use_cache else hidden_states


class Gemma2LMHead(GemmaLMHead):
    """Gemma's head, its logits s capped: c tanh(s / c), c = final_logit_softcapping."""

    def forward(self, hidden_states: Tensor, tensor_parallel_output: Optional[bool] = None) -> Tensor:
        logits = super().forward(hidden_states, tensor_parallel_output)
        cap = self.config.final_logit_softcapping
        return cap * paddle.tanh(logits / cap) if cap else logits


class _Names:
    """Gemma's names of weights, and those of the two norms more. They are split over ranks as Gemma's are."""

    config_class = Gemma2Config

    @classmethod
    def _get_name_mappings(cls, config: Gemma2Config) -> List[StateDictNameMapping]:
        norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
        names = [f"layers.{number}.{norm}.weight" for number in range(config.num_hidden_layers) for norm in norms]
        return super()._get_name_mappings(config) + [
            StateDictNameMapping(f"model.{name}", f"gemma.{name}") for name in names
        ]


class Gemma2Model(_Names, GemmaModel):
    """Ids to last hidden states."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__(config)
        self.layers = nn.LayerList()  # Gemma's own go before ours are made: they would take as much memory once more
        for number in range(config.num_hidden_layers):
            self.layers.append(Gemma2DecoderLayer(config, number not in self.no_recompute_layers))


class Gemma2ForCausalLM(_Names, GemmaForCausalLM):
    """Gemma 2 with its LM head."""

    def __init__(self, config: Gemma2Config) -> None:
        GemmaPretrainedModel.__init__(self, config)  # GemmaForCausalLM's own would make a whole Gemma first
        self.lm_head = Gemma2LMHead(config)
        self.gemma = Gemma2Model(config)
        self.criterion = GemmaPretrainingCriterion(config)
        self.tie_weights()
