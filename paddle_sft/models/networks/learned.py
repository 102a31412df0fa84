"""Parts that OPT and GPT-2 share: positions with a vector each, blocks one after another, logits from a last state."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import paddle.distributed.fleet.meta_parallel as parallel
from paddle import Tensor, nn
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker
from paddle.distributed.fleet.utils import recompute
from paddlenlp.transformers.gpt.modeling import GPTLMHead

from paddle_sft.core.errors import ModelError
from paddle_sft.models.packed import Cache, RowLayout, refuse_filling

Caches = Optional[Sequence[Cache]]


class LearnedPositions(nn.Embedding):
    """A trained vector for every position in a segment: [num_positions, size] behind `offset` unused rows."""

    def __init__(self, num_positions: int, size: int, offset: int = 0) -> None:
        super().__init__(num_positions + offset, size)
        self.num_positions = num_positions
        self.offset = offset
        self.row_layout: Optional[RowLayout] = None  # `models.packed` sets it

    def forward(self, num_rows: int, width: int, past: int) -> Tensor:
        """[num_rows, width, size] for tokens before which `past` were read.

        Raises:
            ModelError: a text that goes on where the table ends.
        """
        longest = self.row_layout.longest(width, past)
        if longest > self.num_positions:
            raise ModelError(
                f"a text of {longest:,} tokens is longer than the {self.num_positions:,} positions that this model has "
                "vectors for; lower max_length, or write shorter prompts and lower max_new_tokens"
            )
        return super().forward(self.row_layout.where(num_rows, width, past) + self.offset)


def word_embedding(config: Any, size: int) -> nn.Layer:
    """[V, size], split by tokens where the model is tensor-parallel."""
    if config.tensor_parallel_degree > 1:
        return parallel.VocabParallelEmbedding(config.vocab_size, size)
    return nn.Embedding(config.vocab_size, size)


class BlockStack:
    """What a PaddleNLP base model gets to run its blocks; each maps (hidden, past) to (hidden, cache)."""

    enable_recompute = False  # PaddleNLP's recompute_enable sets it

    def run(self, blocks: Sequence[nn.Layer], hidden: Tensor, past: Caches) -> Tuple[Tensor, List[Cache]]:
        """hidden [B, T, H] through all blocks, and what a following call needs as `past`."""
        caches: List[Cache] = []
        for number, block in enumerate(blocks):
            if self.enable_recompute and not hidden.stop_gradient:
                hidden = self._recomputed(block, hidden)
                continue
            hidden, cache = block(hidden, past[number] if past else None)
            caches.append(cache)
        return hidden, caches

    def _recomputed(self, block: nn.Layer, hidden: Tensor) -> Tensor:
        return recompute(lambda x: block(x, None)[0], hidden, use_reentrant=self.config.recompute_use_reentrant)


def length_of(past: Caches) -> int:
    """Tokens that were read before."""
    return int(past[0][0].shape[1]) if past and past[0] is not None else 0


class LanguageModel:
    """What a PaddleNLP causal language model gets over its base model: the head, and what generation asks for."""

    def give_head(self) -> None:
        """A head tied to the embedding, or one of its own of the same shape [V, H]."""
        tied = self.get_input_embeddings().weight if self.config.tie_word_embeddings else None
        self.lm_head = GPTLMHead(self.config, embedding_weights=tied)

    def get_output_embeddings(self) -> nn.Layer:
        return self.lm_head

    def forward(
        self, input_ids: Tensor, attention_mask: Optional[Tensor] = None, past_key_values: Caches = None,
        use_cache: bool = False, **kwargs: Any,
    ) -> Union[Tensor, Tuple[Tensor, List[Cache]]]:  # fmt: skip
        """[B, T] -> logits [B, T, V], with the cache beside them if one is asked for.

        Raises:
            ValueError: a mask that hides tokens.
        """
        refuse_filling(attention_mask)
        base = getattr(self, self.base_model_prefix)
        output = base(input_ids, past_key_values=past_key_values, use_cache=use_cache)
        if not use_cache:
            return self.lm_head(output)
        return self.lm_head(output[0]), output[1]

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, use_cache: bool = False, past_key_values: Caches = None, **kwargs: Any
    ) -> Dict[str, Any]:
        """What `forward` takes for the next token: after the first, only that token is read."""
        new = input_ids[:, -1:] if past_key_values else input_ids
        mask = kwargs.get("attention_mask")
        return {"input_ids": new, "attention_mask": mask, "past_key_values": past_key_values, "use_cache": use_cache}


def draw_weights(layer: nn.Layer, spread: float) -> None:
    """Give a fresh embedding or linear layer normal weights of standard deviation `spread`; biases stay zero."""
    kinds = (nn.Linear, nn.Embedding, parallel.VocabParallelEmbedding, parallel.ColumnParallelLinear)
    if isinstance(layer, (*kinds, parallel.RowParallelLinear, GPTLMHead)):
        own = get_rng_state_tracker().rng_state() if layer.weight.is_distributed else nullcontext()
        with own:  # each rank draws its own part
            nn.initializer.Normal(0.0, spread)(layer.weight)
