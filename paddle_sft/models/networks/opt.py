"""OPT (Zhang et al. 2022, https://arxiv.org/abs/2205.01068) under PaddleNLP's names of its weights.

paddlenlp 3.0.0b4's class has a head of its own, which no checkpoint has, and biases and norms in any case; it forgets
the two projections of narrow embeddings when it loads, and never recomputes. This one is made of PaddleNLP's layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, Optional

from paddle import Tensor, nn
from paddlenlp.transformers import PretrainedConfig, PretrainedModel
from paddlenlp.transformers.conversion_utils import split_or_merge_func
from paddlenlp.transformers.model_utils import register_base_model

from paddle_sft.models.families.opt import FAMILY
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

_POSITION_OFFSET = 2
"""Rows of the position table before that of position 0; fairseq kept two for padding."""


class OPTConfig(PretrainedConfig):
    """The keys of `models.families.opt`."""

    model_type = "opt"
    attribute_map = {"intermediate_size": "ffn_dim", "initializer_range": "init_std"}

    def __init__(self, **kwargs: Any) -> None:
        settings = {**FAMILY.defaults(), **kwargs}
        settings["word_embed_proj_dim"] = settings["word_embed_proj_dim"] or settings.get("hidden_size", 0)
        super().__init__(**settings)


class OPTAttention(nn.Layer):
    """The projections; `attend` computes with them."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        size, has_bias = config.hidden_size, config.enable_bias
        self.head_dim = size // config.num_attention_heads
        self.dropout = config.attention_dropout
        self.q_proj = column_linear(config, size, size, has_bias)
        self.k_proj = column_linear(config, size, size, has_bias)
        self.v_proj = column_linear(config, size, size, has_bias)
        self.out_proj = row_linear(config, size, size, has_bias)


def attend(layer: OPTAttention, rows: LayerRows, hidden: Tensor, past: Cache = None) -> tuple:
    """[B, T, hidden] -> ([B, T, hidden], the cache)."""
    projections = (layer.q_proj, layer.k_proj, layer.v_proj)
    query, key, value = [project(hidden).reshape([0, 0, -1, layer.head_dim]) for project in projections]
    mixed, present = rows.attend(query, key, value, past, dropout=layer.dropout if layer.training else 0.0)
    return layer.out_proj(mixed.reshape([0, 0, -1])), present


class OPTBlock(nn.Layer):
    """Attention and MLP, each with its layer norm before it, or (do_layer_norm_before false) behind the residual."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        self.norm_first = config.do_layer_norm_before
        self.self_attn = OPTAttention(config)
        self.norm1 = _layer_norm(config)
        self.linear1 = column_linear(config, config.hidden_size, config.ffn_dim, config.enable_bias)
        self.activation = ACTIVATIONS[config.activation_function]
        self.linear2 = row_linear(config, config.ffn_dim, config.hidden_size, config.enable_bias)
        self.norm2 = _layer_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, past: Cache = None) -> tuple:
        attended, present = self.self_attn(self.norm1(hidden) if self.norm_first else hidden, past)
        hidden = hidden + self.dropout(attended)
        hidden = hidden if self.norm_first else self.norm1(hidden)
        inner = self.activation(self.linear1(self.norm2(hidden) if self.norm_first else hidden))
        hidden = hidden + self.dropout(self.linear2(inner))
        return hidden if self.norm_first else self.norm2(hidden), present


def _layer_norm(config: OPTConfig) -> nn.Layer:
    learned = None if config.layer_norm_elementwise_affine else False
    return nn.LayerNorm(config.hidden_size, weight_attr=learned, bias_attr=learned)


class OPTPretrainedModel(PretrainedModel):
    """What PaddleNLP asks of a family: names, splits, initial weights."""

    config_class = OPTConfig
    base_model_prefix = "opt"

    @classmethod
    def weight_pieces(cls, config: OPTConfig) -> List[Piece]:
        """Every weight that a network of this config has."""
        pieces = [
            Piece("opt.embeddings.word_embeddings.weight", "model.decoder.embed_tokens.weight"),
            Piece("opt.embeddings.position_embeddings.weight", "model.decoder.embed_positions.weight"),
        ]
        for ours, theirs in _linears(config).items():
            pieces.append(Piece(f"opt.{ours}.weight", f"model.decoder.{theirs}.weight", transposed=True))
            if config.enable_bias and ".layers." in ours:
                pieces.append(Piece(f"opt.{ours}.bias", f"model.decoder.{theirs}.bias"))
        if config.layer_norm_elementwise_affine:
            for ours, theirs in _norms(config).items():
                kinds = ("weight", "bias")
                pieces += [Piece(f"opt.decoder.{ours}.{kind}", f"model.decoder.{theirs}.{kind}") for kind in kinds]
        return pieces if config.tie_word_embeddings else [*pieces, Piece("lm_head.weight", "lm_head.weight")]

    @classmethod
    def _get_tensor_parallel_mappings(cls, config: OPTConfig, is_split: bool = True) -> Dict[str, Callable]:
        split = split_or_merge_func(
            is_split, config.tensor_parallel_degree, config.tensor_parallel_rank, config.num_attention_heads
        )
        columns, rows = partial(split, is_column=True), partial(split, is_column=False)
        actions = {"opt.embeddings.word_embeddings.weight": rows}
        kinds = ("weight", "bias") if config.enable_bias else ("weight",)
        for number in range(config.num_hidden_layers):
            at = f"opt.decoder.layers.{number}."
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "linear1"):
                actions.update({f"{at}{name}.{kind}": columns for kind in kinds})
            actions.update({f"{at}{name}.weight": rows for name in ("self_attn.out_proj", "linear2")})
        return actions if config.tie_word_embeddings else {**actions, "lm_head.weight": rows}

    def _init_weights(self, layer: nn.Layer) -> None:
        draw_weights(layer, self.config.init_std)


def _linears(config: OPTConfig) -> Dict[str, str]:
    """PaddleNLP's names of the linear layers -> Hugging Face's."""
    names = {"linear1": "fc1", "linear2": "fc2", **{f"self_attn.{n}_proj": f"self_attn.{n}_proj" for n in "qkv"}}
    names["self_attn.out_proj"] = "self_attn.out_proj"
    layers = range(config.num_hidden_layers)
    found = {f"decoder.layers.{n}.{ours}": f"layers.{n}.{theirs}" for n in layers for ours, theirs in names.items()}
    if config.word_embed_proj_dim != config.hidden_size:
        found.update({"embeddings.project_in": "project_in", "decoder.project_out": "project_out"})
    return found


def _norms(config: OPTConfig) -> Dict[str, str]:
    """PaddleNLP's names of the layer norms -> Hugging Face's."""
    names = {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"}
    layers = range(config.num_hidden_layers)
    found = {f"layers.{n}.{ours}": f"layers.{n}.{theirs}" for n in layers for ours, theirs in names.items()}
    return {**found, "final_layer_norm": "final_layer_norm"} if _has_last_norm(config) else found


def _has_last_norm(config: OPTConfig) -> bool:
    """Folders that were fine-tuned before transformers 4.20.1 have none; they say so with a key of its own."""
    return config.do_layer_norm_before and not config._remove_final_layer_norm


class OPTEmbeddings(nn.Layer):
    """Token vectors, widened to the hidden size if they are narrower, plus position vectors."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        width, size = config.word_embed_proj_dim, config.hidden_size
        self.word_embeddings = word_embedding(config, width)
        self.project_in = nn.Linear(width, size, bias_attr=False) if width != size else None
        self.position_embeddings = LearnedPositions(config.max_position_embeddings, size, _POSITION_OFFSET)

    def forward(self, input_ids: Tensor, past: int) -> Tensor:
        tokens = self.word_embeddings(input_ids)
        tokens = tokens if self.project_in is None else self.project_in(tokens)
        return tokens + self.position_embeddings(*input_ids.shape, past)


class OPTDecoder(nn.Layer, BlockStack):
    """The blocks, the last norm, and the projection to the width of the embeddings."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        self.config = config
        width, size = config.word_embed_proj_dim, config.hidden_size
        self.layers = nn.LayerList([OPTBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_layer_norm = _layer_norm(config) if _has_last_norm(config) else None
        self.project_out = nn.Linear(size, width, bias_attr=False) if width != size else None

    def forward(self, hidden: Tensor, past: Caches) -> tuple:
        hidden, caches = self.run(self.layers, hidden, past)
        hidden = hidden if self.final_layer_norm is None else self.final_layer_norm(hidden)
        return hidden if self.project_out is None else self.project_out(hidden), caches


@register_base_model
class OPTModel(OPTPretrainedModel):
    """Ids to last hidden states, as wide as the embeddings."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config)
        self.embeddings = OPTEmbeddings(config)
        self.decoder = OPTDecoder(config)

    def get_input_embeddings(self) -> nn.Layer:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Layer) -> None:
        self.embeddings.word_embeddings = value

    def forward(self, input_ids: Tensor, past_key_values: Caches = None, use_cache: Optional[bool] = False) -> Any:
        """[B, T] -> [B, T, word_embed_proj_dim], with the cache beside it if one is asked for."""
        hidden = self.embeddings(input_ids, length_of(past_key_values))
        hidden, caches = self.decoder(hidden, past_key_values)
        return (hidden, caches) if use_cache else hidden


class OPTForCausalLM(LanguageModel, OPTPretrainedModel):
    """OPT with its LM head."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config)
        self.opt = OPTModel(config)
        self.give_head()
