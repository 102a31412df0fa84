"""ReFT's edits of a model's hidden states."""

from __future__ import annotations

import inspect
from typing import Any, Dict, Optional

import paddle
from paddle import Tensor, nn

from paddle_sft.adapters.base import EVERY_SPLIT, ModelFacts, ModelUpdate
from paddle_sft.adapters.reft.config import BOTH, FIRST, LAST, ReFTConfig
from paddle_sft.adapters.reft.interventions import INTERVENTIONS
from paddle_sft.models.row_layout import RowLayout
from paddle_sft.models.virtual import decoder_layers, length_read, named_arguments


class ReFT(ModelUpdate):
    """What a decoder layer gives, h, becomes edit(h) at some positions of every prompt (Wu et al. 2024, section 3.2).

    The tokens behind the prompt see the edits through attention; they themselves are not edited, so a cache of keys and
    values holds all there is to know.
    """

    why_not_merge = (
        "it edits hidden states at some positions of the prompt only, which no weight of the model can; keep the base "
        "model, and give the adapter's folder as lora_path where you generate or train"
    )
    stands_alone = True
    splits = EVERY_SPLIT

    def __init__(self, facts: ModelFacts, config: ReFTConfig, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        self._config = config
        self._places: Dict[str, Tensor] = {}
        """End of the prompt -> places in the rows that are computed now; kept for recomputing."""
        make = INTERVENTIONS[config.intervention_type]
        numbers = config.numbers(facts.num_hidden_layers)
        keys = [f"{number}_{end}" for number in numbers for end in config.ends]
        self.edits = nn.LayerDict({key: make(facts.hidden_size, config, dtype) for key in keys})

    def install(self, model: nn.Layer) -> None:
        base = getattr(model, model.base_model_prefix)
        base.forward = _WithPlaces(base.forward, self, model.row_layout)
        model.row_layout.followers.append(self._follow)
        layers = decoder_layers(model)
        for number in self._config.numbers(len(layers)):
            layers[number].register_forward_post_hook(_Edit(self, number))

    def read(self, layout: RowLayout, num_rows: int, width: int) -> None:
        """Note where the prompts are in rows [B, T] that a forward pass begins with."""
        segments = layout.segment_lengths or [[width]] * num_rows
        first, last = self._config.positions.of_rows(segments, layout.prompt_lengths)
        if layout.segment_lengths is not None:
            first, last = layout.here(first), layout.here(last)
        self._places = {FIRST: paddle.to_tensor(first), LAST: paddle.to_tensor(last)}
        self._places[BOTH] = paddle.concat([self._places[FIRST], self._places[LAST]])

    def _follow(self, layout: RowLayout) -> None:
        """Rows were set, of which a model in parts (models.passes) computes the layers one by one."""
        self.read(layout, *layout.shape)

    def has_part_of_gradients(self, share: Any) -> bool:
        return share.sequence_parallel

    def forget(self) -> None:
        """The rows to come are behind their prompts."""
        self._places = {}

    def edited(self, number: int, hidden: Tensor) -> Tensor:
        """The output [B, T, H] of layer `number` with its edits."""
        rows = hidden.reshape([-1, hidden.shape[-1]])
        for end in self._config.ends:
            places = self._places.get(end)
            if places is not None and len(places):
                new = self.edits[f"{number}_{end}"](paddle.gather(rows, places))
                rows = paddle.scatter(rows, places, new.astype(rows.dtype))
        return rows.reshape(hidden.shape)

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        num = len(config.numbers(facts.num_hidden_layers)) * len(config.ends)
        return num * INTERVENTIONS[config.intervention_type].count(facts.hidden_size, config)


class _WithPlaces:
    def __init__(self, forward: Any, update: ReFT, layout: RowLayout) -> None:
        self._forward, self._update, self._layout = forward, update, layout
        self._signature = inspect.signature(forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named = named_arguments(self._signature, args, kwargs)
        if self._update.enabled and not length_read(named.get("past_key_values")):
            self._update.read(self._layout, *named["input_ids"].shape)
        else:
            self._update.forget()
        return self._forward(**named)


class _Edit:
    def __init__(self, update: ReFT, number: int) -> None:
        self._update, self._number = update, number

    def __call__(self, layer: nn.Layer, inputs: tuple, output: Any) -> Optional[Any]:
        if not self._update.enabled:
            return None
        if isinstance(output, (tuple, list)):
            return (self._update.edited(self._number, output[0]), *output[1:])
        return self._update.edited(self._number, output)
