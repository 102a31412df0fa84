"""The trained keys and values of prefix tuning."""

from __future__ import annotations

from typing import Any, Tuple

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, ModelFacts, State
from paddle_sft.adapters.prefix_tuning.config import PrefixTuningConfig
from paddle_sft.adapters.virtual import Dense, VirtualUpdate, encoder_size, table


class PrefixTuning(VirtualUpdate):
    """Every query of a sample sees the keys [P_K; K] and the values [P_V; V] (Li and Liang 2021, section 4.2).

    P of a layer is trained itself, or, with prefix_projection, P = tanh(E W1 + b1) W2 + b2 (section 4.3), where W2 and
    b2 are the layer's own. Shapes: P [num_virtual_tokens, 2, G, D], G key and value heads of D numbers. A layer
    computes its P when it is asked, so recomputing a layer needs nothing of another.
    """

    in_rows = False
    splits = EVERY_SPLIT
    why_not_merge = (
        "its keys and values stand before the text in every layer and are in no weight of the model; keep the base "
        "model, and give the adapter's folder as lora_path where you generate or train"
    )

    def __init__(self, facts: ModelFacts, config: PrefixTuningConfig, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        num, width, layers = config.num_virtual_tokens, _width(facts), range(facts.num_hidden_layers)
        self._projects = config.prefix_projection
        if self._projects:
            inner = encoder_size(config.encoder_hidden_size, width)
            self.embedding = table(self, num, width, dtype)
            self.hidden = Dense(width, inner, dtype)
            self.up = nn.LayerList([Dense(inner, 2 * width, dtype) for _ in layers])
        else:
            self.prefix = nn.ParameterList([table(self, num, 2 * width, dtype, spread=0.02) for _ in layers])

    def start(self, model: nn.Layer) -> None:
        """Without the MLP: what the model itself has for tokens drawn from its vocabulary (section 7.4)."""
        if self._projects:
            return
        ids = paddle.randint(0, self.facts.vocab_size, [1, self.num_virtual])
        self.enabled = False
        model.row_layout.clear()
        with paddle.no_grad():
            caches = model(input_ids=ids, use_cache=True)[1]
        for parameter, (key, value) in zip(self.prefix, caches):
            both = paddle.stack([key[0], value[0]], axis=1)  # [P, 2, G, D]
            parameter.set_value(both.reshape(parameter.shape).astype(parameter.dtype))
        self.enabled = True

    def _of_layer(self, number: int) -> Tensor:
        """[num_virtual_tokens, 2 G D]."""
        return self.up[number](paddle.tanh(self.hidden(self.embedding))) if self._projects else self.prefix[number]

    def keys_and_values(self, number: int) -> Tuple[Tensor, Tensor]:
        facts = self.facts
        both = self._of_layer(number).reshape([-1, 2, facts.num_key_value_heads, facts.head_dim])
        return both[:, 0], both[:, 1]

    def has_part_of_gradients(self, share: Any) -> bool:
        return share.tensor > 1  # each rank has the heads that it computes attention of

    def for_use(self, config: PrefixTuningConfig) -> Tuple[PrefixTuningConfig, State]:
        layers = range(self.facts.num_hidden_layers)
        plain = PrefixTuningConfig(config.target_modules, config.num_virtual_tokens, prefix_projection=False)
        return plain, {f"prefix.{number}": self._of_layer(number) for number in layers}

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        num, width, layers = config.num_virtual_tokens, _width(facts), facts.num_hidden_layers
        if not config.prefix_projection:
            return layers * num * 2 * width
        inner = encoder_size(config.encoder_hidden_size, width)
        return num * width + (width + 1) * inner + layers * (inner + 1) * 2 * width


def _width(facts: ModelFacts) -> int:
    return facts.num_key_value_heads * facts.head_dim
