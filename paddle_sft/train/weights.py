"""What a run trains and therefore saves: an adapter, or the whole model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict

import paddle
from paddle import nn

from paddle_sft.adapters.state import ADAPTER_WEIGHTS, fill_adapter, read_adapter, save_adapter
from paddle_sft.core.errors import CheckpointError
from paddle_sft.models.hub import assign, unique_parameters
from paddle_sft.models.tokenizers import copy_tokenizer
from paddle_sft.models.weights import ModelWeights
from paddle_sft.models.writer import renames_of, write_model


class FullWeights:
    """Every weight of the model, as a model folder in Paddle's layout."""

    def __init__(self, model: nn.Layer, tokenizer_folder: Path) -> None:
        self.model = model
        self.tokenizer_folder = tokenizer_folder

    def describe(self) -> Dict[str, Any]:
        """What of it must be the same on resume."""
        return {"trained": "every weight", **_describe_model(self.model)}

    def write(self, folder: Path) -> None:
        write_model(folder, self.model, "paddle")
        copy_tokenizer(self.tokenizer_folder, folder)

    def read(self, folder: Path) -> None:
        weights = ModelWeights(folder, renames_of(self.model))
        for name, parameter in unique_parameters(self.model).items():
            if name not in weights:
                raise CheckpointError(f"{folder} lacks {name}: it was made by a run of another kind")
            assign(parameter, weights.read(name), weights.spec(name).tag)


class AdapterWeights:
    """The adapter alone, as an adapter folder."""

    def __init__(self, model: nn.Layer, method: str, config: Any, tokenizer_folder: Path) -> None:
        self.model = model
        self.method = method
        self.config = config
        self.tokenizer_folder = tokenizer_folder

    def describe(self) -> Dict[str, Any]:
        """What of it must be the same on resume."""
        config = asdict(self.config)
        targets = sorted(dict.fromkeys(path.rsplit(".", 1)[-1] for path in config.pop("target_modules")))
        num = len(self.config.target_modules)
        return {"trained": self.method, **config, "targets": targets, "num_targets": num, **_describe_model(self.model)}

    def write(self, folder: Path) -> None:
        save_adapter(folder, self.model, self.method, self.config)
        copy_tokenizer(self.tokenizer_folder, folder)

    def read(self, folder: Path) -> None:
        if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
            raise CheckpointError(f"{folder} lacks {ADAPTER_WEIGHTS}: it was made by a run without lora")
        fill_adapter(self.model, read_adapter(folder))


def _describe_model(model: nn.Layer) -> Dict[str, Any]:
    classes, rows = getattr(model, "classes", None), getattr(model, "new_rows", None)
    found: Dict[str, Any] = {} if classes is None else {"classes": list(classes.names)}
    return {**found, **({} if rows is None else {"new_rows": [rows.first, rows.end]})}


def trainable_parameters(model: nn.Layer) -> Dict[str, paddle.Tensor]:
    """Name -> parameter that the optimizer changes; a tied pair once."""
    return {name: parameter for name, parameter in unique_parameters(model).items() if not parameter.stop_gradient}
