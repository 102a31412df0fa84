"""Every weight of a model folder read once, as loading reads it, and let go again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddle_sft.core.tensorfile import numpy_type
from paddle_sft.models.classification import build_empty_classifier, classes_of
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_empty, refuse_numbers, require_complete, unique_parameters
from paddle_sft.models.renames import rename_table
from paddle_sft.models.weights import ModelWeights


def read_through(folder: Path) -> int:
    """Returns the number of weights. Memory: the largest of them, in its stored type.

    Raises:
        ModelError: as `models.hub.load_model`.
    """
    config = read_config(folder)
    classes = classes_of(config, str(folder))
    network = build_empty(config, "float32") if classes is None else build_empty_classifier(config, "float32", classes)
    weights = ModelWeights(folder, rename_table(type(network), network.config))
    require_complete(weights, network, folder)
    problems = []
    parameters = unique_parameters(network)
    for name in parameters:
        spec = weights.spec(name)
        wrong = weights.fill(name, np.empty(spec.shape, numpy_type(spec.tag)), spec.tag)
        problems += [f"{name}: {wrong} of {int(np.prod(spec.shape)):,} numbers"] if wrong else []
        weights.release(name)
    refuse_numbers(problems, len(parameters), folder)
    return len(parameters)
