"""Every weight of a model folder read once, as loading reads it, and let go again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddle_sft.core.tensorfile import numpy_type
from paddle_sft.models.classification import build_empty_classifier, classes_of
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_empty, open_weights, refuse_numbers, require_complete, unique_parameters
from paddle_sft.models.quantised import is_in_codes, read_codes
from paddle_sft.models.stored_schemes import schemes_in


def read_through(folder: Path) -> int:
    """Returns the number of weights. Memory: the largest of them, in its stored type.

    Raises:
        ModelError: as `models.hub.load_model`.
    """
    config = read_config(folder)
    classes = classes_of(config, str(folder))
    network = build_empty(config, "float32") if classes is None else build_empty_classifier(config, "float32", classes)
    stored = schemes_in(config, str(folder))
    weights = open_weights(folder, network, stored)
    require_complete(weights, network, folder, stored)
    problems = []
    parameters = [name for name in unique_parameters(network) if not is_in_codes(name, stored)]
    for path, scheme in stored.items():
        read_codes(weights, path, scheme)
    for name in parameters:
        spec = weights.spec(name)
        wrong = weights.fill(name, np.empty(spec.shape, numpy_type(spec.tag)), spec.tag)
        problems += [f"{name}: {wrong} of {int(np.prod(spec.shape)):,} numbers"] if wrong else []
        weights.release(name)
    refuse_numbers(problems, len(parameters), folder)
    return len(parameters) + len(stored)
