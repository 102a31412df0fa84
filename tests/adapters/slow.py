"""What the tests of single methods share: a layer with every weight away from its start."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from paddle_sft.adapters.catalogue import ADAPTERS


def trained(method: str, rows: int, columns: int, **numbers: Any) -> Any:
    """One update of a method for a layer [rows, columns], in double precision, its weights random."""
    update = ADAPTERS[method].layer(rows, columns, ADAPTERS[method].config(**numbers), "float64")
    random = np.random.default_rng(0)
    for parameter in update.parameters():
        parameter.set_value(0.3 * random.standard_normal(parameter.shape))
    return update


def arrays(update: Any) -> Dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in update.state_dict().items()}
