"""What transformers calls the layers of a network."""

from __future__ import annotations

from typing import Any, Dict, List, Set

from paddle_sft.adapters.attach import base_layers, base_linears
from paddle_sft.core.errors import ModelError
from paddle_sft.models.linears import features
from paddle_sft.models.renames import Piece, rename_table

_WEIGHT = ".weight"


class Modules:
    """Our paths of a network's layers, and transformers' names of them, both ways.

    The network may be empty (models.hub.build_empty): only names and shapes are asked.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.renames = rename_table(type(network), network.config)
        self.shapes = {path: features(layer) for path, layer in base_layers(network).items()}
        self.embeddings = self.shapes.keys() - base_linears(network).keys()
        """Those of `shapes` that are no linear layers."""
        self._theirs: Dict[str, str] = {}
        self._ours: Dict[str, str] = {}
        self.fan_in_fan_out: Set[str] = set()
        """Our paths of layers that keep their matrix as [in, out] in transformers, too (GPT-2's Conv1D)."""
        for name, pieces in self.renames.of_paddle.items():
            if name.endswith(_WEIGHT) and len(pieces) == 1 and pieces[0].is_whole:
                self._add(name[: -len(_WEIGHT)], pieces[0])

    def _add(self, path: str, piece: Piece) -> None:
        self._theirs[path] = piece.hf[: -len(_WEIGHT)]
        self._ours[self._theirs[path]] = path
        if path in self.shapes and path not in self.embeddings and not piece.transposed:
            self.fan_in_fan_out.add(path)

    def theirs(self, path: str) -> str:
        """Our path -> transformers' name.

        Raises:
            ModelError: transformers has no such layer, or keeps it inside a tensor of several.
        """
        if path not in self._theirs or self.is_stacked(path):
            raise ModelError(
                f"{path} is part of a larger tensor in transformers 5, where PEFT has no layer to put its update on; "
                "merge the adapter instead (paddle-sft merge --format hf), or train it on attention layers"
            )
        return self._theirs[path]

    def theirs_of_any(self, path: str) -> str:
        """As `theirs`; for a layer that has no name there, ours."""
        return self._theirs.get(path, path)

    def ours(self, name: str) -> str:
        """transformers' name -> our path; empty where there is none."""
        return self._ours.get(name, "")

    def is_stacked(self, path: str) -> bool:
        """Whether transformers 5 has this layer only as a part of a tensor of several (experts)."""
        spellings: List[Piece] = self.renames.second_spelling(path + _WEIGHT)
        return any(not piece.is_whole for piece in spellings)
