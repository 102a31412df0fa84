"""What a run trains and therefore saves: an adapter, or the whole model."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import paddle
from paddle import nn

from paddle_sft.adapters.base import model_updates
from paddle_sft.adapters.saved import OF_MODEL
from paddle_sft.adapters.state import (
    ADAPTER_WEIGHTS,
    adapter_tensors,
    fill_adapter,
    for_use,
    read_adapter,
    require_same_base,
    save_adapter,
)
from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.later import perform
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, write_arrays
from paddle_sft.models.hub import assign, dtype_name, stored, unique_parameters, whole_shapes
from paddle_sft.models.quantised import schemes_of
from paddle_sft.models.split import part_of
from paddle_sft.models.stored_schemes import summary
from paddle_sft.models.tokenizers import copy_tokenizer
from paddle_sft.models.weights import ModelWeights
from paddle_sft.models.writer import renames_of, write_config, write_model, write_weights

Produce = Callable[[TensorSpec], np.ndarray]
MEMORY = "adapter_training.safetensors"
"""Beside an adapter that is not trained to the end: what its method remembers from step to step."""
_MEMORY = "memory/"
"""Begin of the names of that among an adapter's tensors."""


class _Followed:
    """What a method does around an optimizer step, and what it has to remember for a resumed run."""

    model: nn.Layer
    is_result = False
    """Whether what is written is for use, no more to go on from."""

    def before_update(self, step: int, num_steps: int) -> bool:
        """With the gradients of a step (from 0), summed over ranks, before the optimizer reads them; returns whether it
        changed them."""
        return any([part.before_update(step, num_steps) for part in model_updates(self.model).values()])

    def after_update(self, step: int, num_steps: int) -> None:
        """After the optimizer's step, with the gradients still there."""
        for part in model_updates(self.model).values():
            part.after_update(step, num_steps)

    def skip_update(self) -> None:
        """Instead of both, where a number of the step was not finite."""

    def _memory(self) -> Dict[str, paddle.Tensor]:
        """What this rank has of it."""
        parts = model_updates(self.model).items()
        return {f"{name}/{key}": value for name, part in parts for key, value in part.training_state().items()}

    def _read_memory(self, folder: Path) -> None:
        specs: Dict[str, TensorSpec] = {}
        if (folder / MEMORY).is_file():
            file = TensorFile(folder / MEMORY)
            specs = file.specs
        for name, part in model_updates(self.model).items():
            mine = [key for key in specs if key.startswith(f"{name}/")]
            part.restore_training({key[len(name) + 1 :]: paddle.to_tensor(np.array(file.read(key))) for key in mine})


class FullWeights(_Followed):
    """The whole model, as a model folder in Paddle's layout, whichever of its weights are trained.

    Args:
        trained: which these are, if not every weight; the same on resume.
    """

    def __init__(self, model: nn.Layer, tokenizer_folder: Path, trained: Any = "every weight") -> None:
        self.model = model
        self.tokenizer_folder = tokenizer_folder
        self.trained = trained

    def describe(self) -> Dict[str, Any]:
        """What of it must be the same on resume."""
        return {"trained": self.trained, **_describe_model(self.model)}

    def tensors(self) -> Dict[str, paddle.Tensor]:
        """What this rank has of it."""
        return unique_parameters(self.model)

    def order(self) -> List[str]:
        """Names in the order in which they are written."""
        return list(whole_shapes(self.model))

    def write(self, folder: Path, specs: Sequence[TensorSpec] = (), produce: Optional[Produce] = None) -> None:
        """Write all of it. Where the model here is a share, `specs` say what there is and `produce` gives it."""
        if produce is None:
            write_model(folder, self.model, "paddle")
        else:
            dtype = dtype_name(next(iter(self.tensors().values())))
            write_weights(folder, specs, produce, renames_of(self.model), "paddle")
            write_config(folder, self.model.config, "paddle", dtype)
        perform(partial(copy_tokenizer, self.tokenizer_folder, folder))

    def read(self, folder: Path) -> None:
        weights = ModelWeights(folder, renames_of(self.model))
        for name, parameter in unique_parameters(self.model).items():
            if name not in weights:
                raise CheckpointError(f"{folder} lacks {name}: it was made by a run of another kind")
            part = part_of(parameter)
            here, there = tuple(parameter.shape if part is None else part.shape), tuple(weights.spec(name).shape)
            if here != there:
                raise CheckpointError(
                    f"{folder} belongs to another model: {name} is {list(there)} there and {list(here)} here; restore "
                    "model_name_or_path, or start afresh with another output_dir or overwrite_output_dir true"
                )
            if part is not None:
                weights.keep_part(name, part)
            assign(parameter, weights.read(name), weights.spec(name).tag)


class AdapterWeights(_Followed):
    """The adapter alone, as an adapter folder."""

    def __init__(self, model: nn.Layer, method: str, config: Any, tokenizer_folder: Path) -> None:
        self.model = model
        self.method = method
        self.config = config
        self.tokenizer_folder = tokenizer_folder

    def describe(self) -> Dict[str, Any]:
        """What of it must be the same on resume."""
        config = {key: list(one) if isinstance(one, tuple) else one for key, one in asdict(self.config).items()}
        targets = sorted(dict.fromkeys(path.rsplit(".", 1)[-1] for path in config.pop("target_modules")))
        num = len(self.config.target_modules)
        return {"trained": self.method, **config, "targets": targets, "num_targets": num, **_describe_model(self.model)}

    def tensors(self) -> Dict[str, paddle.Tensor]:
        """What this rank has of it, and of what its method remembers."""
        memory = {_MEMORY + name: value for name, value in self._memory().items()}
        return {**adapter_tensors(self.model), **memory}

    def order(self) -> List[str]:
        """Names in the order in which they are written: adapted layers in the model's, whoever holds them."""
        here = list(adapter_tensors(self.model))
        ends = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in here))
        return [f"{path}.{end}" for path in self.config.target_modules for end in ends]

    def write(self, folder: Path, specs: Sequence[TensorSpec] = (), produce: Optional[Produce] = None) -> None:
        """Write all of it. Where the model here is a share, `specs` say what there is and `produce` gives it."""
        config, arrays = self.config, None
        memory = {name: stored(value) for name, value in self._memory().items()}
        if produce is not None:
            arrays = {spec.name: produce(spec) for spec in specs}
            begun = [name for name in arrays if name.startswith(_MEMORY)]
            memory = {name[len(_MEMORY) :]: arrays.pop(name) for name in begun}
        if self.is_result:
            config, used = for_use(self.model, config)
            arrays = used if arrays is None else _with_parts_of_model(arrays, used)
        save_adapter(folder, self.model, self.method, config, arrays=arrays)
        if memory:
            write_arrays(Path(folder) / MEMORY, memory)
        perform(partial(copy_tokenizer, self.tokenizer_folder, folder))

    def read(self, folder: Path) -> None:
        if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
            raise CheckpointError(f"{folder} lacks {ADAPTER_WEIGHTS}: it was made by a run without lora")
        saved = read_adapter(folder)
        require_same_base(self.model, saved)
        fill_adapter(self.model, saved)
        self._read_memory(Path(folder))


def _with_parts_of_model(arrays: Dict[str, np.ndarray], used: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Whole arrays with what is used of the parts that lie on the model, which every rank has whole."""
    of_layers = {name: array for name, array in arrays.items() if not name.startswith(OF_MODEL)}
    return {**of_layers, **{name: array for name, array in used.items() if name.startswith(OF_MODEL)}}


def _describe_model(model: nn.Layer) -> Dict[str, Any]:
    classes, rows = getattr(model, "classes", None), getattr(model, "new_rows", None)
    found: Dict[str, Any] = {} if classes is None else {"classes": list(classes.names)}
    if schemes_of(model):
        found["quantised"] = summary(schemes_of(model))
    if getattr(model, "trained_whole", ()):
        found["trained_whole"] = list(model.trained_whole)
    return {**found, **({} if rows is None else {"new_rows": [rows.first, rows.end]})}


def trainable_parameters(model: nn.Layer) -> Dict[str, paddle.Tensor]:
    """Name -> parameter that the optimizer changes; a tied pair once."""
    return {name: parameter for name, parameter in unique_parameters(model).items() if not parameter.stop_gradient}
