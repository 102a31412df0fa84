"""What a user decides about ReFT."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Tuple, Union

from paddle_sft.adapters.base import AdapterConfig
from paddle_sft.adapters.reft.interventions import ACTIVATIONS, INTERVENTIONS
from paddle_sft.adapters.reft.positions import Positions, read_positions
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError

FIRST, LAST, BOTH = "first", "last", "both"


@dataclass(frozen=True)
class ReFTConfig(AdapterConfig):
    """ReFT (Wu et al. 2024, https://arxiv.org/abs/2404.03592, section 3)."""

    layers: Union[str, Tuple[int, ...]] = "all"
    """Numbers of decoder layers, from 0, whose output is edited."""
    position: str = "f7+l7"
    """f7: the first 7 tokens of the prompt; l7: the last 7; f7+l7: both."""
    intervention_type: str = "LoreftIntervention"
    rank: int = 8
    """Dimensions of the hidden states that an edit changes."""
    act_fn: str = "linear"
    add_bias: bool = False
    dropout: float = 0.0
    share_weights: bool = False
    """Whether the first and the last tokens of a prompt share an edit."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", read_layers(self.layers))
        read_positions(self.position)
        edit = choose("intervention_type", self.intervention_type, INTERVENTIONS)
        choose("act_fn", self.act_fn, ACTIVATIONS)
        for key, part, usual in (("act_fn", "source", "linear"), ("add_bias", "projection", False)):
            if getattr(self, key) != usual and part not in edit.parts:
                able = ", ".join(name for name, one in INTERVENTIONS.items() if part in one.parts)
                raise ArgumentError(f"{self.intervention_type} has no {key}; leave it out, or choose one of: {able}")
        if self.rank < 1:
            raise ArgumentError(f"rank must be at least 1, got {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise ArgumentError(f"dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def positions(self) -> Positions:
        return read_positions(self.position)

    @property
    def ends(self) -> Tuple[str, ...]:
        """The edits of a layer: one for each end of the prompt, unless they share it."""
        positions = self.positions
        if self.share_weights and positions.first and positions.last:
            return (BOTH,)
        return (FIRST,) * bool(positions.first) + (LAST,) * bool(positions.last)

    def numbers(self, num_layers: int) -> List[int]:
        """The layers of a model with so many.

        Raises:
            ArgumentError: the model has no such layer.
        """
        if self.layers == "all":
            return list(range(num_layers))
        beyond = [number for number in self.layers if number >= num_layers]
        if beyond:
            raise ArgumentError(f"layers names {beyond}, and the model has {num_layers}: 0 to {num_layers - 1}, or all")
        return list(self.layers)


def read_layers(given: Union[str, List[int], Tuple[int, ...]]) -> Union[str, Tuple[int, ...]]:
    """all, or numbers: a list of them, or a text that separates them by commas or semicolons.

    Raises:
        ArgumentError: anything else.
    """
    if given == "all":
        return "all"
    parts = re.split(r"\s*[;,]\s*", given.strip(" []")) if isinstance(given, str) else list(given)
    if not parts or not all(str(part).isdigit() for part in parts):
        raise ArgumentError(f"layers is {given!r}; allowed are all, or numbers from 0 such as 4,8,12")
    return tuple(dict.fromkeys(int(part) for part in parts))
