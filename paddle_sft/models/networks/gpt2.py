"""GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners") under Hugging Face's names.

paddlenlp 3.0.0b4's GPT class takes 3,072 for an inner size that isn't written, and ignores without a word the epsilon
of the layer norms, the activation function, scores that shrink from layer to layer, and two of three dropouts. This one
is made of PaddleNLP's layers; the projection to queries, keys and values stays one linear layer.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable, Dict, List, Optional

import paddle
from paddle import Tensor, nn
from paddlenlp.transformers import PretrainedConfig, PretrainedModel
from paddlenlp.transformers.conversion_utils import split_or_merge_func
from paddlenlp.transformers.model_utils import register_base_model

from paddle_sft.models.families.gpt2 import FAMILY
from paddle_sft.models.networks.activations import ACTIVATIONS
from paddle_sft.models.networks.blocks import column_linear, row_linear
from paddle_sft.models.networks.learned import (
    BlockStack,
    Caches,
    LanguageModel,
    LearnedPositions,
    draw_weights,
    length_of,
    word_embedding,
)
from paddle_sft.models.packed import Cache, LayerRows
from paddle_sft.models.renames import Piece


class GPT2Config(PretrainedConfig):
    """The keys of `models.families.gpt2`, under PaddleNLP's names of them too."""

    model_type = "gpt2"
    attribute_map = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "n_inner": "intermediate_size",
    }

    def __init__(self, **kwargs: Any) -> None:
        given = {self.attribute_map.get(key, key): value for key, value in kwargs.items()}
        settings = {self.attribute_map.get(key, key): value for key, value in FAMILY.defaults().items()}
        settings.update(given)
        settings["intermediate_size"] = settings["intermediate_size"] or 4 * settings.get("hidden_size", 0)
        super().__init__(**settings)


class GPT2Attention(nn.Layer):
    """The projections; `attend` computes with them."""

    def __init__(self, config: GPT2Config, number: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.head_dim = size // config.num_attention_heads
        self.c_attn = column_linear(config, size, 3 * size, has_bias=True)
        self.c_proj = row_linear(config, size, size, has_bias=True)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.scale = 1.0 / math.sqrt(self.head_dim) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= number + 1


def attend(layer: GPT2Attention, rows: LayerRows, hidden: Tensor, past: Cache = None) -> tuple:
    """[B, T, hidden] -> ([B, T, hidden], the cache)."""
    parts = paddle.split(layer.c_attn(hidden), 3, axis=-1)
    query, key, value = [part.reshape([0, 0, -1, layer.head_dim]) for part in parts]
    dropout = layer.attn_pdrop if layer.training else 0.0
    mixed, present = rows.attend(query, key, value, past, scale=layer.scale, dropout=dropout)
    return layer.resid_dropout(layer.c_proj(mixed.reshape([0, 0, -1]))), present


class GPT2MLP(nn.Layer):
    """dropout(activation(x W1 + b1) W2 + b2)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.c_fc = column_linear(config, size, config.intermediate_size, has_bias=True)
        self.c_proj = row_linear(config, config.intermediate_size, size, has_bias=True)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class GPT2Block(nn.Layer):
    """Attention and MLP, each behind a layer norm and beside the residual."""

    def __init__(self, config: GPT2Config, number: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, epsilon=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, number)
        self.ln_2 = nn.LayerNorm(config.hidden_size, epsilon=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, hidden: Tensor, past: Cache = None) -> tuple:
        attended, present = self.attn(self.ln_1(hidden), past)
        hidden = hidden + attended
        return hidden + self.mlp(self.ln_2(hidden)), present


class GPT2PretrainedModel(PretrainedModel):
    """What PaddleNLP asks of a family: names, splits, initial weights."""

    config_class = GPT2Config
    base_model_prefix = "gpt2"

    @classmethod
    def weight_pieces(cls, config: GPT2Config) -> List[Piece]:
        """Hugging Face's linear layers are [in, out] here, as Paddle's."""
        linears = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        layers = [f"h.{number}.{name}" for number in range(config.n_layer) for name in ("ln_1", "ln_2", *linears)]
        names = ["wte.weight", "wpe.weight"]
        names += [f"{layer}.{kind}" for layer in (*layers, "ln_f") for kind in ("weight", "bias")]
        head = [] if config.tie_word_embeddings else [Piece("lm_head.weight", "lm_head.weight")]
        return [Piece(f"gpt2.{name}", f"transformer.{name}") for name in names] + head

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: GPT2Config, is_split: bool = True) -> Dict[str, Callable]:
        split = split_or_merge_func(
            is_split, config.tensor_parallel_degree, config.tensor_parallel_rank, config.num_attention_heads
        )
        columns, rows = partial(split, is_column=True), partial(split, is_column=False)
        fused = partial(split, is_column=True, is_naive_3fuse=True)  # each rank gets its heads' q, k and v
        actions = {"wte.weight": rows}
        for number in range(config.n_layer):
            for name, action in (("attn.c_attn", fused), ("mlp.c_fc", columns)):
                actions.update({f"h.{number}.{name}.{kind}": action for kind in ("weight", "bias")})
            actions.update({f"h.{number}.{name}.c_proj.weight": rows for name in ("attn", "mlp")})
        found = {f"gpt2.{name}": action for name, action in actions.items()}
        return found if config.tie_word_embeddings else {**found, "lm_head.weight": rows}

    def _init_weights(self, layer: nn.Layer) -> None:
        draw_weights(layer, self.config.initializer_range)
        if isinstance(layer, (GPT2Attention, GPT2MLP)):  # both add to the residual of every block
            draw_weights(layer.c_proj, self.config.initializer_range / math.sqrt(2 * self.config.n_layer))


@register_base_model
class GPT2Model(GPT2PretrainedModel, BlockStack):
    """Ids to last hidden states."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.wte = word_embedding(config, config.hidden_size)
        self.wpe = LearnedPositions(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.LayerList([GPT2Block(config, number) for number in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.hidden_size, epsilon=config.layer_norm_epsilon)

    def get_input_embeddings(self) -> nn.Layer:
        return self.wte

    def set_input_embeddings(self, value: nn.Layer) -> None:
        self.wte = value

    def forward(self, input_ids: Tensor, past_key_values: Caches = None, use_cache: Optional[bool] = False) -> Any:
        """[B, T] -> [B, T, hidden], with the cache beside it if one is asked for."""
        places = self.wpe(*input_ids.shape, length_of(past_key_values))
        hidden, caches = self.run(self.h, self.drop(self.wte(input_ids) + places), past_key_values)
        hidden = self.ln_f(hidden)
        return (hidden, caches) if use_cache else hidden


class GPT2ForCausalLM(LanguageModel, GPT2PretrainedModel):
    """GPT-2 with its LM head."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.gpt2 = GPT2Model(config)
        self.give_head()
