"""The trained vectors of prompt tuning."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import ModelFacts
from paddle_sft.adapters.prompt_tuning.config import PromptTuningConfig
from paddle_sft.adapters.virtual import VirtualUpdate, table


class PromptTuning(VirtualUpdate):
    """The model reads [P; X] in place of the word vectors X of a sample (Lester et al. 2021, section 2).

    Shapes: P [num_virtual_tokens, E], E the size of a word vector.
    """

    why_not_merge = (
        "its virtual tokens stand before the text and are in no weight of the model; keep the base model, and give the "
        "adapter's folder as lora_path where you generate or train"
    )

    def __init__(self, facts: ModelFacts, config: PromptTuningConfig, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        self._config = config
        self.prompt = table(self, config.num_virtual_tokens, facts.token_size, dtype)

    def start(self, model: nn.Layer) -> None:
        words = model.get_input_embeddings().weight.detach()
        shape, kind = self.prompt.shape, self._config.prompt_tuning_init
        if kind == "random":  # as long as word vectors are: a fresh embedding's are 50 times longer than a model's
            drawn = paddle.randn(shape, dtype="float32") * float(words.astype("float32").std())
        elif kind == "text":
            ids = self._config.init_ids
            drawn = words[paddle.to_tensor([ids[place % len(ids)] for place in range(shape[0])])]
        else:
            drawn = words[paddle.randint(0, words.shape[0], [shape[0]])]
        self.prompt.set_value(drawn.astype(self.prompt.dtype))

    def vectors(self) -> Tensor:
        return self.prompt

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        return config.num_virtual_tokens * facts.token_size
