"""The virtual tokens of P-tuning and their encoder."""

from __future__ import annotations

from typing import Any, Tuple

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.adapters.base import ModelFacts, State
from paddle_sft.adapters.p_tuning.config import NONE, PTuningConfig
from paddle_sft.adapters.p_tuning.lstm import BiLSTM
from paddle_sft.adapters.prompt_tuning.layer import PromptTuning
from paddle_sft.adapters.virtual import WITH_WHOLE_ROWS, Dense, VirtualUpdate, encoder_size, table


class PTuning(VirtualUpdate):
    """The model reads [h; X]: h = MLP(P), or h = MLP([LSTM forwards; backwards](P)) (Liu et al. 2021, equation 7).

    Shapes: P and h [num_virtual_tokens, E]. Training changes P and the encoder; inference needs h alone.
    """

    splits = WITH_WHOLE_ROWS
    why_not_merge = PromptTuning.why_not_merge

    def __init__(self, facts: ModelFacts, config: PTuningConfig, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        num, size = config.num_virtual_tokens, facts.token_size
        self.kind = config.encoder_reparameterization_type
        if self.kind == NONE:
            self.prompt = table(self, num, size, dtype)
            return
        inner = encoder_size(config.encoder_hidden_size, size)
        self.embedding = table(self, num, size, dtype)
        if self.kind == "LSTM":
            self.lstm = BiLSTM(size, inner, config.encoder_num_layers, config.encoder_dropout, dtype)
        self.mlp = nn.LayerList([Dense(rows, columns, dtype) for rows, columns in _mlp(self.kind, size, inner)])

    def vectors(self) -> Tensor:
        if self.kind == NONE:
            return self.prompt
        x = self.lstm(self.embedding) if self.kind == "LSTM" else self.embedding
        for number, layer in enumerate(self.mlp):
            x = layer(F.relu(x) if number else x)
        return x

    def for_use(self, config: PTuningConfig) -> Tuple[PTuningConfig, State]:
        if self.kind == NONE:
            return config, self.state_dict()
        plain = PTuningConfig(config.target_modules, config.num_virtual_tokens, encoder_reparameterization_type=NONE)
        return plain, {"prompt": self.vectors()}

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        size, kind = facts.token_size, config.encoder_reparameterization_type
        own = config.num_virtual_tokens * size
        if kind == NONE:
            return own
        inner = encoder_size(config.encoder_hidden_size, size)
        own += sum((rows + 1) * columns for rows, columns in _mlp(kind, size, inner))
        read = [size] + [2 * inner] * (config.encoder_num_layers - 1) if kind == "LSTM" else []
        return own + sum(2 * 4 * inner * (rows + inner + 2) for rows in read)  # two ways, four gates, two biases


def _mlp(kind: str, size: int, inner: int) -> list:
    """(in, out) of the encoder's linear layers."""
    if kind == "LSTM":
        return [(2 * inner, 2 * inner), (2 * inner, size)]
    return [(size, inner), (inner, inner), (inner, size)]
