"""Qwen 2: PaddleNLP's network with heads of any size, and what other families need to be built of it."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

from paddle import nn
from paddlenlp.transformers import Qwen2ForCausalLM as _Qwen2ForCausalLM
from paddlenlp.transformers.conversion_utils import StateDictNameMapping
from paddlenlp.transformers.qwen2.modeling import (
    Qwen2Attention,
    Qwen2LMHead,
    Qwen2PretrainedModel,
    Qwen2PretrainingCriterion,
)

from paddle_sft.models.networks.blocks import give_heads, layers_of


class Qwen2ForCausalLM(_Qwen2ForCausalLM):
    """paddlenlp 3.0.0b4: heads have hidden_size / heads numbers."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for attention in layers_of(self, Qwen2Attention):
            give_heads(attention, config, qkv_bias=True)


class OtherNames:
    """For families built of Qwen 2's layers under names of their own: `base_model_prefix` in place of qwen2.

    No PretrainedModel, whose metaclass would give it an __init__ that hides the network's.
    """

    @classmethod
    def names_of_qwen2(cls, config: Any, keep: Callable[[str], bool]) -> List[StateDictNameMapping]:
        """Qwen 2's names of weights, those whose name in a Hugging Face folder `keep` is true of."""
        return [
            StateDictNameMapping(found.source_name, _renamed(found.target_name, cls.base_model_prefix), found.action)
            for found in Qwen2PretrainedModel._get_name_mappings.__func__(cls, config)
            if keep(found.source_name)
        ]

    @classmethod
    def names_in_layers(cls, config: Any, names: List[str], action: Optional[str] = None) -> List[StateDictNameMapping]:
        """The same for weights that Qwen 2 doesn't have, named as they are below a decoder layer."""
        below = [f"layers.{number}.{name}" for number in range(config.num_hidden_layers) for name in names]
        return [StateDictNameMapping(f"model.{name}", f"{cls.base_model_prefix}.{name}", action) for name in below]


def _renamed(name: str, prefix: str) -> str:
    return name.replace("qwen2.", f"{prefix}.", 1) if name.startswith("qwen2.") else name


class OtherForCausalLM(_Qwen2ForCausalLM):
    """An LM head on the base model of a family with `OtherNames`."""

    def __init__(self, config: Any) -> None:
        Qwen2PretrainedModel.__init__(self, config)  # Qwen2ForCausalLM's own would make a Qwen2Model
        base = self.base_model_class(config)
        self.add_sublayer(self.base_model_prefix, base)
        tied = base.embed_tokens.weight if config.tie_word_embeddings else None
        self.lm_head = Qwen2LMHead(config, tied, transpose_y=config.tie_word_embeddings)
        self.criterion = Qwen2PretrainingCriterion(config)
        self.vocab_size = config.vocab_size
        self.tie_weights()

    @property
    def qwen2(self) -> nn.Layer:
        """What Qwen 2's forward calls its base model."""
        return getattr(self, self.base_model_prefix)
