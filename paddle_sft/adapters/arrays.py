"""Named arrays in memory that are read like a safetensors file."""

from __future__ import annotations

from typing import Dict, Mapping

import numpy as np

from paddle_sft.core.tensorfile import TensorSpec, tag_of


class Arrays:
    """What `core.tensorfile.TensorFile` is on the disk: an adapter that was converted or combined, not written yet."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)
        self.specs: Dict[str, TensorSpec] = {
            name: TensorSpec(name, tag_of(array), tuple(array.shape)) for name, array in self._arrays.items()
        }

    def read(self, name: str) -> np.ndarray:
        """As it is stored: bfloat16 as uint16."""
        return self._arrays[name]
