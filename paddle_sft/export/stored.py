"""The weights of a model folder as floats, one at a time: as they stand there, or as training saw them."""

from __future__ import annotations

from typing import Collection, Dict, Tuple

import numpy as np

from paddle_sft.adapters.fingerprint import Fingerprint, fingerprint
from paddle_sft.core.tensorfile import to_float32
from paddle_sft.models.fingerprint import Mark, code_at, spots
from paddle_sft.models.quantised import as_tensor, read_codes
from paddle_sft.models.weights import ModelWeights
from paddle_sft.quant.choice import Schemes
from paddle_sft.quant.codec import Arrays, dequantise, quantise


class StoredWeights:
    """Reads a folder of floats or of codes.

    Args:
        weights: the folder, opened with `models.quantised.with_codes` if it holds codes.
        stored: path -> scheme of the layers whose codes are in the folder.
        seen: path -> scheme of layers that are floats in the folder and were quantised while they were loaded.
        shapes: path -> (in, out) of the layers of both.
    """

    def __init__(
        self, weights: ModelWeights, stored: Schemes, seen: Schemes, shapes: Dict[str, Tuple[int, int]]
    ) -> None:
        self.weights = weights
        self.schemes = {**seen, **stored}
        self._stored = stored
        self.shapes = shapes
        tags = [weights.spec(name).tag for name in weights.names if not self._is_array(name)]
        self.tag = max(sorted(set(tags)), key=tags.count)
        """The most frequent type of the floats."""

    def _is_array(self, name: str) -> bool:
        path, _, last = name.rpartition(".")
        return path in self._stored and last not in ("weight", "bias")

    def tag_of(self, name: str) -> str:
        """The type to store a weight's floats in; for codes, and for what isn't there, the most frequent."""
        return self.weights.spec(name).tag if name in self.weights else self.tag

    def read(self, name: str) -> Tuple[np.ndarray, str]:
        """(array in Paddle's layout, its type); what is or was quantised is dequantised, in float32."""
        path, _, last = name.rpartition(".")
        if last != "weight" or path not in self.schemes:
            return self.weights.read(name), self.weights.spec(name).tag
        rows, columns = self.shapes[path]
        return dequantise(self.codes(path), self.schemes[path], rows, columns).t().numpy(), "F32"

    def fingerprint(self, linears: Collection[str]) -> Fingerprint:
        """By which an adapter knows its base: of the folder's floats, or of its codes.

        Args:
            linears: paths of the linear layers, in the model's order.
        """
        marks: Dict[int, Mark] = {}
        for path, inside in spots({path: self.shapes[path] for path in linears if path in self.shapes}).items():
            if path in self._stored:
                codes = self.weights.read(f"{path}.codes")
                marks.update({number: Mark(None, code_at(codes, number)) for number in inside})
                continue
            array, tag = self.weights.read(f"{path}.weight"), self.weights.spec(f"{path}.weight").tag
            values = to_float32(np.array([array[at] for at in inside.values()]), tag)
            marks.update({number: Mark(float(value)) for number, value in zip(inside, values)})
        return fingerprint(marks, self._stored)

    def codes(self, path: str) -> Arrays:
        """The codes and scales of a layer: those in the folder, or the ones that training had."""
        if path in self._stored:
            return read_codes(self.weights, path, self._stored[path])
        rows, columns = self.shapes[path]
        weight = np.empty((columns, rows), dtype=np.float32)
        self.weights.fill(f"{path}.weight", weight.T, "F32")
        return quantise(as_tensor(weight), self.schemes[path], f"{path}.weight")
