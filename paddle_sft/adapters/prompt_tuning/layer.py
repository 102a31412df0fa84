"""The trained vectors of prompt tuning."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import ModelFacts
from paddle_sft.adapters.prompt_tuning.config import PromptTuningConfig
from paddle_sft.adapters.virtual import WITH_WHOLE_ROWS, VirtualUpdate, table
from paddle_sft.models.word_vectors import WordVectors


class PromptTuning(VirtualUpdate):
    """The model reads [P; X] in place of the word vectors X of a sample (Lester et al. 2021, section 2).

    Shapes: P [num_virtual_tokens, E], E the size of a word vector.
    """

    splits = WITH_WHOLE_ROWS
    why_not_merge = (
        "its virtual tokens stand before the text and are in no weight of the model; keep the base model, and give the "
        "adapter's folder as lora_path where you generate or train"
    )

    def __init__(self, facts: ModelFacts, config: PromptTuningConfig, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        self._config = config
        self.prompt = table(self, config.num_virtual_tokens, facts.token_size, dtype)

    def start(self, model: nn.Layer) -> None:
        words = WordVectors(model)
        shape, kind = self.prompt.shape, self._config.prompt_tuning_init
        if kind == "random":
            drawn = paddle.randn(shape, dtype="float32")
        elif kind == "text":
            ids = self._config.init_ids
            drawn = paddle.to_tensor([ids[place % len(ids)] for place in range(shape[0])])
        else:
            drawn = paddle.randint(0, words.num, [shape[0]])
        if words.are_here:  # else on another stage, which alone reads the prompt
            # random ones are as long as word vectors: a fresh embedding's are 50 times longer than a model's
            start = drawn * words.spread() if kind == "random" else words.of(drawn)
            self.prompt.set_value(start.astype(self.prompt.dtype))

    def vectors(self) -> Tensor:
        return self.prompt

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        return config.num_virtual_tokens * facts.token_size
