"""What a quantisation-aware run saves: the model in floats, and what its quanters learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_sft.core.atomic import write_json
from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, write_arrays
from paddle_sft.models.linears import find_linears
from paddle_sft.quant.aware import ACTIVATIONS, Awareness, activations_file
from paddle_sft.train.weights import FullWeights, Produce

QUANTERS = "quanters.safetensors"


class AwareWeights(FullWeights):
    """The whole model, whose linear layers compute with rounded numbers.

    Args:
        trained: which weights change, as in `FullWeights`.
        kind: a name of `quant.aware.QAT_TYPES`.
        ranks: the group of those that see other samples; None for a process that is alone.
    """

    def __init__(self, model: nn.Layer, tokenizer_folder: Path, trained: Any, kind: str, ranks: Any = None) -> None:
        super().__init__(model, tokenizer_folder, trained)
        self.awareness = Awareness(find_linears(model), kind)
        self._ranks = ranks

    def describe(self) -> Dict[str, Any]:
        return {**super().describe(), "qat": self.awareness.kind}

    def before_update(self, step: int, num_steps: int) -> bool:
        is_changed = super().before_update(step, num_steps)
        self.awareness.settle(None if self._ranks is None else self._mean)
        return is_changed

    def skip_update(self) -> None:
        self.awareness.go_back()

    def _mean(self, values: Tensor) -> Tensor:
        paddle.distributed.all_reduce(values, group=self._ranks)
        return values / self._ranks.nranks

    def write(self, folder: Path, specs: Sequence[TensorSpec] = (), produce: Optional[Produce] = None) -> None:
        super().write(folder, specs, produce)
        write_arrays(Path(folder) / QUANTERS, self.awareness.arrays())
        scales = self.awareness.input_scales()
        if scales:
            write_json(Path(folder) / ACTIVATIONS, activations_file(scales))

    def read(self, folder: Path) -> None:
        super().read(folder)
        if not (Path(folder) / QUANTERS).is_file():
            raise CheckpointError(f"{folder} lacks {QUANTERS}: it was made by a run without qat")
        file = TensorFile(Path(folder) / QUANTERS)
        self.awareness.restore({name: np.array(file.read(name)) for name in file.specs})
