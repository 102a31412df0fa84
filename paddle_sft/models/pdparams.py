"""Paddle's pickled weight files, read by an unpickler that can build numpy arrays and nothing else."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict

import numpy as np

from paddle_sft.core.errors import ModelError
from paddle_sft.core.tensorfile import why_hollow

_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's own note inside the file, no tensor

_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.core.multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): np.core.multiarray._reconstruct,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[(module, name)]


def read_pdparams(path: Path) -> Dict[str, np.ndarray]:
    """Read name -> array from a .pdparams file without running any code of it.

    Raises:
        ModelError: damaged, or it holds more than arrays.
    """
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises anything, down to MemoryError
        hollow = why_hollow(path) if Path(path).is_file() else ""
        raise ModelError(hollow or f"{path} can't be read as plain arrays: {error}; save it as safetensors") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold named arrays, it holds a {type(content).__name__}")
    content = {name: value for name, value in content.items() if name != _NAME_TABLE}
    wrong = [name for name, value in content.items() if not isinstance(value, np.ndarray)]
    if wrong:
        raise ModelError(f"{path}: {wrong[0]} is not an array; save the model as safetensors")
    return content
